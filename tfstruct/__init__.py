"""tfstruct: smaller and faster Keras 3 models, from training to a verified `.tflite` file.

The names here load on first use: `import tfstruct` alone imports neither TensorFlow nor Keras.
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
    "surgery",
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
