"""Every row of the table of operations, alone: a layer or an operation on one of the inputs below."""

import keras
import numpy as np
from keras import layers, ops

SHAPES = {"image": (6, 6, 4), "series": (6, 4), "vector": (8,), "volume": (4, 4, 4, 2)}


# By name: what reads the image, or the input that is named.
LAYERS = {
    "relu": layers.ReLU(), "relu6": layers.ReLU(6.0), "relu3": layers.ReLU(3.0),
    "leaky relu": layers.LeakyReLU(0.2), "elu": layers.ELU(), "softmax": layers.Softmax(), "prelu": layers.PReLU(),
    "dense": (layers.Dense(3), "vector"), "dense of images": layers.Dense(3),
    "conv1d": (layers.Conv1D(4, 3), "series"), "conv2d": layers.Conv2D(4, 3), "conv3d": (layers.Conv3D(3, 2), "volume"),
    "depthwise1d": (layers.DepthwiseConv1D(3), "series"), "depthwise2d": layers.DepthwiseConv2D(3),
    "separable1d": (layers.SeparableConv1D(4, 3), "series"), "separable2d": layers.SeparableConv2D(4, 3),
    "transposed1d": (layers.Conv1DTranspose(4, 3, strides=2), "series"),
    "transposed2d": layers.Conv2DTranspose(4, 3, strides=2),
    "einsum": layers.EinsumDense("abcd,de->abce", (6, 6, 5)),
    "batch norm": layers.BatchNormalization(), "rescaling": layers.Rescaling(2.0, 1.0),
    "scaling": layers.Rescaling(3.0), "rescaling by one": layers.Rescaling(1.0),
    "normalization": layers.Normalization(mean=0.1, variance=2.0),
    "layer norm": layers.LayerNormalization(), "layer norm without beta": layers.LayerNormalization(center=False),
    "group norm": layers.GroupNormalization(2), "rms norm": layers.RMSNormalization(),
    "unit norm": layers.UnitNormalization(),
    "dropout": layers.Dropout(0.5), "spatial dropout1d": (layers.SpatialDropout1D(0.5), "series"),
    "spatial dropout2d": layers.SpatialDropout2D(0.5), "spatial dropout3d": (layers.SpatialDropout3D(0.5), "volume"),
    "alpha dropout": layers.AlphaDropout(0.5), "gaussian dropout": layers.GaussianDropout(0.5),
    "noise": layers.GaussianNoise(0.1),
    "identity": layers.Identity(), "activity": layers.ActivityRegularization(0.1),
    "flatten": layers.Flatten(), "reshape": layers.Reshape((9, 16)), "permute": layers.Permute((2, 1, 3)),
    "repeat vector": (layers.RepeatVector(3), "vector"),
    "cropping1d": (layers.Cropping1D(1), "series"), "cropping2d": layers.Cropping2D(1),
    "cropping3d": (layers.Cropping3D(1), "volume"), "cropping by zero": layers.Cropping2D(0),
    "padding1d": (layers.ZeroPadding1D(1), "series"), "padding2d": layers.ZeroPadding2D(1),
    "padding3d": (layers.ZeroPadding3D(1), "volume"), "padding by zero": layers.ZeroPadding2D(0),
    "upsampling1d": (layers.UpSampling1D(2), "series"), "upsampling2d": layers.UpSampling2D(2),
    "upsampling3d": (layers.UpSampling3D(2), "volume"), "upsampling by one": layers.UpSampling2D(1),
    "bilinear": layers.UpSampling2D(2, interpolation="bilinear"),
    "resizing": layers.Resizing(9, 9, interpolation="nearest"), "bilinear resizing": layers.Resizing(9, 9),
    "max1d": (layers.MaxPooling1D(2), "series"), "max2d": layers.MaxPooling2D(2), "max by one": layers.MaxPooling2D(1),
    "average1d": (layers.AveragePooling1D(2), "series"), "average2d": layers.AveragePooling2D(2),
    "global max1d": (layers.GlobalMaxPooling1D(), "series"), "global max2d": layers.GlobalMaxPooling2D(),
    "global max3d": (layers.GlobalMaxPooling3D(), "volume"),
    "global average1d": (layers.GlobalAveragePooling1D(), "series"),
    "global average2d": layers.GlobalAveragePooling2D(),
    "global average3d": (layers.GlobalAveragePooling3D(), "volume"),
}  # fmt: skip
FUNCTIONS = [
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "sigmoid",
    "hard_sigmoid",
    "sparse_sigmoid",
    "tanh",
    "hard_tanh",
    "tanh_shrink",
    "softplus",
    "softsign",
    "log_sigmoid",
    "exponential",
    "gelu",
    "silu",
    "hard_silu",
    "mish",
    "squareplus",
    "sparse_plus",
    "softmax",
    "log_softmax",
]
JOINS = {
    "add": layers.Add(), "subtract": layers.Subtract(), "multiply": layers.Multiply(), "maximum": layers.Maximum(),
    "minimum": layers.Minimum(), "average of two": layers.Average(), "concatenate": layers.Concatenate(),
    "ops.add": lambda x, y: x + y, "ops.subtract": lambda x, y: x - y, "ops.multiply": lambda x, y: x * y,
    "ops.divide": lambda x, y: x / (ops.sigmoid(y) + 1.0), "ops.maximum": ops.maximum, "ops.minimum": ops.minimum,
    "ops.where": lambda x, y: ops.where(x > 0.1, x, y), "ops.concatenate": lambda x, y: ops.concatenate([x, y], -1),
    "ops.stack": lambda x, y: ops.stack([x, y], 1), "ops.hstack": lambda x, y: ops.hstack([x, y]),
    "ops.dstack": lambda x, y: ops.dstack([x[:, 0], y[:, 0]]),
}  # fmt: skip
OPERATIONS = {
    "ops.absolute": ops.absolute, "ops.negative": ops.negative, "ops.square": ops.square,
    "ops.stop_gradient": ops.stop_gradient, "ops.copy": ops.copy, "ops.cast": lambda x: ops.cast(x, "float32"),
    "ops.reshape": lambda x: ops.reshape(x, (-1, 9, 16)), "ops.expand_dims": lambda x: ops.expand_dims(x, 1),
    "ops.squeeze": lambda x: ops.squeeze(x[:, :1], 1), "ops.transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "ops.swapaxes": lambda x: ops.swapaxes(x, 1, 2), "ops.moveaxis": lambda x: ops.moveaxis(x, 1, 2),
    "ops.flip": lambda x: ops.flip(x, 1), "ops.fliplr": ops.fliplr, "ops.roll": lambda x: ops.roll(x, 2, 1),
    "ops.rot90": lambda x: ops.rot90(x, axes=(1, 2)), "ops.crop_images": lambda x: ops.image.crop_images(x, 1, 1, 1, 1),
    "ops.pad_images": lambda x: ops.image.pad_images(x, 1, 1, 1, 1), "ops.getitem": lambda x: x[:, 1:3],
    "ops.repeat": lambda x: ops.repeat(x, 2, 1), "ops.tile": lambda x: ops.tile(x, (1, 2, 1, 1)),
    "ops.split": lambda x: ops.split(x, 2, -1), "ops.array_split": lambda x: ops.array_split(x, 2, -1),
    "ops.hsplit": lambda x: ops.hsplit(x, 2), "ops.take": lambda x: ops.take(x, np.array([0, 2]), 1),
    "ops.unstack": lambda x: ops.unstack(x, axis=1), "ops.pad": lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]),
    "ops.reflect": lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect"),
    "ops.resize": lambda x: ops.image.resize(x, (9, 9), interpolation="nearest"),
    "ops.bilinear": lambda x: ops.image.resize(x, (9, 9)), "ops.max": lambda x: ops.max(x, 1),
    "ops.amax": lambda x: ops.amax(x, 1), "ops.min": lambda x: ops.min(x, 1), "ops.amin": lambda x: ops.amin(x, 1),
    "ops.mean": lambda x: ops.mean(x, 1), "ops.sum": lambda x: ops.sum(x, 1), "ops.softmax": ops.softmax,
    "ops.relu": ops.relu, "ops.relu6": ops.relu6, "ops.sigmoid": ops.sigmoid, "ops.tanh": ops.tanh,
    "ops.silu": ops.silu, "ops.rsqrt": lambda x: ops.rsqrt(ops.sigmoid(x) + 1.0),
    "ops.leaky_relu": ops.leaky_relu, "ops.elu": ops.elu, "ops.gelu": lambda x: ops.gelu(x, False), "ops.exp": ops.exp,
    "ops.log_softmax": ops.log_softmax, "ops.hard_silu": ops.hard_silu, "ops.hard_sigmoid": ops.hard_sigmoid,
    "ops.softplus": ops.softplus, "ops.selu": ops.selu, "ops.log_sigmoid": ops.log_sigmoid,
}  # fmt: skip


def _fresh(layer: layers.Layer, name: str) -> layers.Layer:
    """The layer once more, with a name that no operation gets by itself, whatever was cleared before."""
    return type(layer).from_config({**layer.get_config(), "name": f"{name.replace(' ', '_')}_layer"})


def examples() -> tuple[list[keras.KerasTensor], dict[str, list[keras.KerasTensor]]]:
    """Inputs, and what each of them makes of one of its own: the converter computes the same only once."""
    given: list[keras.KerasTensor] = []

    def own(source: str) -> keras.KerasTensor:
        given.append(keras.Input(SHAPES[source], name=f"{source}_{len(given)}"))
        return given[-1]

    made: dict[str, object] = {}
    for name, value in LAYERS.items():
        layer, source = value if isinstance(value, tuple) else (value, "image")
        made[name] = _fresh(layer, name)(own(source))
    for name in FUNCTIONS:
        made[f"activation {name}"] = layers.Activation(name)(own("image"))
    for name, join in JOINS.items():
        both = own("image"), own("image")
        layer = isinstance(join, layers.Layer)
        made[name] = _fresh(join, name)(list(both)) if layer else join(*both)
    for name, operation in OPERATIONS.items():
        made[name] = operation(own("image"))
    return given, {name: keras.tree.flatten(value) for name, value in made.items()}


def samples(model: keras.Model, count: int = 16) -> dict[str, np.ndarray]:
    """Inputs of a model by name."""
    rng = np.random.default_rng(0)
    return {x.name: rng.normal(size=(count, *x.shape[1:])).astype("float32") for x in model.inputs}


def with_any_weights(model: keras.Model) -> keras.Model:
    """The model, nothing in it zero or one, which the converter might leave out."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "seed" not in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model
