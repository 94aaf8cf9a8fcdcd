"""tfstruct: smaller and faster Keras 3 models, from training to a verified `.tflite` file.

The names here load on first use: `import tfstruct` alone imports neither TensorFlow nor Keras.

The examples in docstrings go on from here; `tests/test_docstrings.py` runs them:

    >>> import keras
    >>> import numpy as np
    >>> import tfstruct
    >>> keras.utils.set_random_seed(0)
    >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    >>> y = (x.sum(axis=1) > 0).astype("int32")
    >>> features = keras.Input((8,), name="features")
    >>> hidden = keras.layers.Dense(16, "relu", name="hidden")
    >>> model = keras.Sequential([features, hidden, keras.layers.Dense(2, name="scores")])
    >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    >>> images = np.random.default_rng(1).normal(size=(16, 12, 12, 3)).astype("float32")
    >>> pixels = keras.Input((12, 12, 3), name="pixels")
    >>> stem = keras.layers.Conv2D(8, 3, padding="same", name="stem")(pixels)
    >>> branch = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="branch")(stem)
    >>> branch = keras.layers.BatchNormalization(name="norm")(branch)
    >>> joined = keras.layers.ReLU(name="relu")(keras.layers.Add(name="sum")([stem, branch]))
    >>> down = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="down")(joined)
    >>> pooled = keras.layers.GlobalAveragePooling2D(name="pool")(down)
    >>> convnet = keras.Model(pixels, keras.layers.Dense(4, name="classes")(pooled), name="convnet")
"""

from tfstruct import lazy

__version__ = "0.1.0"

_ROOMS = (
    "analyze",
    "augment",
    "callbacks",
    "compression",
    "convert",
    "distill",
    "errors",
    "graph",
    "initializers",
    "layers",
    "legacy",
    "optimizers",
    "quantize",
    "regularizers",
    "reporting",
    "samples",
    "schedules",
    "streaming",
    "surgery",
    "tfmot",
)
_HOME = {
    "Recipe": "convert",
    "TFLiteModel": "convert",
    "to_tflite": "convert",
    "verify": "convert",
    "check_target": "convert",
    "pack": "convert",
    "unpack": "convert",
    "profile": "analyze",
    "explain": "analyze",
    "Plan": "surgery",
    "plan_channels": "surgery",
    "apply": "surgery",
    "shrink": "surgery",
    "recalibrate_batch_norm": "surgery",
    "to_streaming": "streaming",
    "compress": "compression",
    "Budget": "compression",
    "BudgetError": "errors",
    "PlanError": "errors",
    "EmptyPlanError": "errors",
    "TfstructError": "errors",
    "ArgumentError": "errors",
    "ArgumentTypeError": "errors",
    "ConversionError": "errors",
    "DataError": "errors",
    "MissingPackageError": "errors",
    "ModelError": "errors",
    "RecipeError": "errors",
    "VerificationError": "errors",
}
__getattr__, __dir__, __all__ = lazy.names(__name__, {**_HOME, **dict.fromkeys(_ROOMS)})
