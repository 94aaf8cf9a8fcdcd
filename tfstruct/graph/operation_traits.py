"""What Keras's layers and operations do with values, at inference: the one table of them, which every room asks.

How channels pass through them is said by the rules in `rules/`: a new type of layer has its rule there and its row
here. `tests/convert/test_operator_traits.py` holds the rows against the files that the converter writes.
"""

import dataclasses
import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import layers

from tfstruct.graph.kinds import kind_of
from tfstruct.graph.traits import ANY, Traits
from tfstruct.keras_internals.operation_types import operations

_Adjust = Callable[[keras.Operation, Traits], Traits]
_FUNCTIONS: dict[str, Traits] = {}
_ROWS: dict[type, tuple[Traits, _Adjust | None]] = {}
_NOTED: weakref.WeakKeyDictionary[keras.Operation, Traits] = weakref.WeakKeyDictionary()  # of one operation alone
_OTHER_NAMES = {"softmax_v2": "softmax", "swish": "silu"}  # of TensorFlow


def traits_of(op: keras.Operation) -> Traits:
    """The traits of a layer or operation, as it is configured; none of them for one that the table does not have.

    A subclass has the traits of its base as long as it computes as that does, see `kinds`.
    """
    if op in _NOTED:
        return _NOTED[op]
    kind = kind_of(op, _ROWS)
    if kind is None:
        return Traits()
    traits, adjust = _ROWS[kind]
    return traits if adjust is None else adjust(op, traits)


def function_traits(function: str | Callable | None) -> Traits:
    """The traits of an activation function, or of that of this name; those of `linear` for None."""
    name = function if isinstance(function, str) else function_name(function)
    return _FUNCTIONS.get(name or "linear", Traits(function=name or ""))


def function_name(function) -> str | None:
    """Keras's name of an activation function; None for `linear`.

    A function that is neither Keras's nor TensorFlow's has its module before its name, so that it is like no other.
    """
    if function is None:
        return None
    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(function, keras.Operation):
        traits = traits_of(function)
        return traits.function or (function_name(function.activation) if traits.activated else None) or name
    module = getattr(function, "__module__", None) or ""
    if module.partition(".")[0] not in ("keras", "tensorflow"):
        return f"{module}.{name}"
    return None if name == "linear" else _OTHER_NAMES.get(name, name)


def classes_that(holds: Callable[[Traits], bool]) -> tuple[type[Any], ...]:
    """The classes of the table with such traits, where their configuration does not take these away."""
    return tuple(kind for kind, (traits, _) in _ROWS.items() if holds(traits))


def layers_with(*kernels: str) -> tuple[type[Any], ...]:
    """The layers whose kernels have one of these layouts, see `Traits.kernel`."""
    return classes_that(lambda traits: traits.kernel in kernels)


def add_row(kinds: Iterable[type], traits: Traits, adjust: _Adjust | None = None) -> None:
    """Puts types into the table; `adjust` makes the traits of one operation of those of its type."""
    _ROWS.update(dict.fromkeys(kinds, (traits, adjust)))


def note_traits(op: keras.Operation, traits: Traits) -> None:
    """Gives one operation traits that others of its type need not have."""
    _NOTED[op] = traits


def _layers(names: str, adjust: _Adjust | None = None, **traits) -> None:
    """A row for layers of these names; "1D 2D" stand for a name with each of these ends."""
    kinds = (getattr(layers, name, None) for name in names.split())
    add_row([kind for kind in kinds if kind is not None], Traits(**traits), adjust)


def _operations(names: str, adjust: _Adjust | None = None, **traits) -> None:
    add_row(operations(names), Traits(**traits), adjust)


def _both(names: str, adjust: _Adjust | None = None, **traits) -> None:
    """A row for the layers and for the operations of these names."""
    _layers(names, adjust, **traits)
    _operations(names, adjust, **traits)


def _function(names: str, **traits) -> None:
    for name in names.split():
        _FUNCTIONS[name] = Traits(function=name, **traits)


# Activation functions. What a function that is not elementwise divides by is measured over its axis.

_POSITIVE, _UNIT, _SIGNED = (0.0, math.inf), (0.0, 1.0), (-1.0, 1.0)

_function("linear", elementwise=True, moves="identity", idle="linear", passes=ANY, keeps_zero=True, homogeneous=True,
          tensors=1)  # fmt: skip
_function("relu", elementwise=True, output_range=_POSITIVE, passes=_POSITIVE, keeps_zero=True, homogeneous=True,
          operator="RELU", tensors=1)  # fmt: skip
_function("relu6", elementwise=True, output_range=(0.0, 6.0), passes=(0.0, 6.0), keeps_zero=True, operator="RELU6",
          tensors=1)  # fmt: skip
_function("leaky_relu", elementwise=True, passes=_POSITIVE, keeps_zero=True, homogeneous=True, operator="LEAKY_RELU",
          tensors=2)  # fmt: skip
_function("elu", elementwise=True, output_range=(-1.0, math.inf), passes=_POSITIVE, keeps_zero=True, tensors=3)
_function("hard_tanh", elementwise=True, output_range=_SIGNED, passes=_SIGNED, keeps_zero=True, tensors=3)
_function("sigmoid", elementwise=True, output_range=_UNIT, operator="LOGISTIC", tensors=1)
_function("tanh", elementwise=True, output_range=_SIGNED, keeps_zero=True, operator="TANH", tensors=1)
_function("gelu", elementwise=True, output_range=(-0.1701, math.inf), keeps_zero=True, operator="GELU", tensors=1)
_function("silu", elementwise=True, output_range=(-0.2785, math.inf), keeps_zero=True, operator="MUL", tensors=3)
_function("hard_silu", elementwise=True, output_range=(-0.375, math.inf), keeps_zero=True, operator="HARD_SWISH",
          tensors=1)  # fmt: skip
_function("hard_sigmoid sparse_sigmoid", elementwise=True, output_range=_UNIT, tensors=3)
_function("exponential", elementwise=True, output_range=_POSITIVE, operator="EXP", tensors=3)
_function("softplus squareplus sparse_plus", elementwise=True, output_range=_POSITIVE, tensors=3)
_function("softsign", elementwise=True, output_range=_SIGNED, keeps_zero=True, tensors=3)
_function("log_sigmoid", elementwise=True, output_range=(-math.inf, 0.0), tensors=3)
_function("celu", elementwise=True, output_range=(-1.0, math.inf), passes=_POSITIVE, keeps_zero=True, tensors=3)
_function("selu", elementwise=True, output_range=(-1.7581, math.inf), keeps_zero=True, tensors=3)
_function("mish", elementwise=True, output_range=(-0.3089, math.inf), keeps_zero=True, tensors=3)
_function("tanh_shrink hard_shrink soft_shrink", elementwise=True, keeps_zero=True, tensors=3)
_function("threshold", elementwise=True, tensors=3)
_function("softmax", statistics="axes", output_range=_UNIT, operator="SOFTMAX", tensors=1)
_function("log_softmax", statistics="axes", output_range=(-math.inf, 0.0), operator="LOG_SOFTMAX", tensors=3)
_function("sparsemax", statistics="axes", output_range=_UNIT, tensors=3)


def _by_activation(op, base: Traits) -> Traits:
    return function_traits(op.activation)


def _relu(op, base: Traits) -> Traits:
    """ReLU with a limit, a threshold and a slope below it."""
    highest = math.inf if op.max_value is None else float(op.max_value)
    slope, threshold = float(op.negative_slope or 0), float(op.threshold or 0)
    name = {math.inf: "relu", 6.0: "relu6"}.get(highest)
    if name and not slope and not threshold:
        return _FUNCTIONS[name]
    ends = (0.0, highest)
    return Traits(
        function="relu_variant", elementwise=True, tensors=1,
        output_range=None if slope else ends, passes=None if threshold else ends,
        keeps_zero=not slope or not threshold, homogeneous=not threshold and highest == math.inf,
    )  # fmt: skip


def _by_argument(function: str, argument: str, value: float | bool) -> _Adjust:
    """A function of one argument; Keras's name stands for one value of it."""

    def adjust(op, base: Traits) -> Traits:
        found = getattr(op, argument)
        if found == value:
            return _FUNCTIONS[function]
        low, high = base.output_range or ANY
        ends = (-float(found), high) if function in ("elu", "celu") else (low, high)
        return dataclasses.replace(base, function=f"{function}_variant", output_range=None if ends == ANY else ends)

    return adjust


for _names, _of in {
    "Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Softplus": "softplus", "Softsign": "softsign",
    "Silu": "silu", "HardSilu": "hard_silu", "HardSigmoid": "hard_sigmoid", "HardTanh": "hard_tanh", "Selu": "selu",
    "Tanh": "tanh", "TanhShrink": "tanh_shrink", "LogSigmoid": "log_sigmoid", "SparsePlus": "sparse_plus",
    "SparseSigmoid": "sparse_sigmoid", "Mish": "mish", "Exp": "exponential", "LogSoftmax": "log_softmax",
    "Sparsemax": "sparsemax",
}.items():  # fmt: skip
    add_row(operations(_names), _FUNCTIONS[_of])
for _names, _of, _argument, _value in (
    ("LeakyRelu", "leaky_relu", "negative_slope", 0.2), ("Elu", "elu", "alpha", 1.0), ("Celu", "celu", "alpha", 1.0),
    ("Gelu", "gelu", "approximate", False), ("Squareplus", "squareplus", "b", 4),
    ("HardShrink", "hard_shrink", "threshold", 0.5), ("SoftShrink", "soft_shrink", "threshold", 0.5),
):  # fmt: skip
    add_row(operations(_names), _FUNCTIONS[_of], _by_argument(_of, _argument, _value))
add_row(operations("Threshold"), _FUNCTIONS["threshold"])
add_row((*operations("ReLU"), layers.ReLU), Traits(elementwise=True, operator="RELU"), _relu)
add_row([layers.LeakyReLU], _FUNCTIONS["leaky_relu"], _by_argument("leaky_relu", "negative_slope", 0.2))
add_row([layers.ELU], _FUNCTIONS["elu"], _by_argument("elu", "alpha", 1.0))
add_row([layers.Softmax, *operations("Softmax")], _FUNCTIONS["softmax"])
_layers("Activation", _by_activation, elementwise=True)
_layers("PReLU", elementwise=True, passes=_POSITIVE, keeps_zero=True, homogeneous=True, zeroed_by_weights=True,
        tensors=8)  # fmt: skip


# Layers with weights that are linear in what they read, their activation aside.

_kernel: dict[str, Any] = {"activated": True, "zeroed_by_weights": True}
_layers("Dense", kernel="dense", one_kernel=True, operator="FULLY_CONNECTED", tensors=3, **_kernel)
_layers("Conv1D", kernel="conv", one_kernel=True, operator="CONV_2D", tensors=9, **_kernel)
_layers("Conv2D", kernel="conv", one_kernel=True, operator="CONV_2D", tensors=3, **_kernel)
_layers("Conv3D", kernel="conv", operator="CONV_3D", tensors=8, **_kernel)
_layers("DepthwiseConv1D", kernel="depthwise", one_kernel=True, operator="DEPTHWISE_CONV_2D", tensors=9, **_kernel)
_layers("DepthwiseConv2D", kernel="depthwise", one_kernel=True, operator="DEPTHWISE_CONV_2D", tensors=3, **_kernel)
_layers("SeparableConv1D", kernel="separable", operator="CONV_2D", tensors=14, **_kernel)
_layers("SeparableConv2D", kernel="separable", operator="CONV_2D", tensors=6, **_kernel)
_layers("Conv1DTranspose", kernel="transposed", one_kernel=True, operator="TRANSPOSE_CONV", tensors=10, **_kernel)
_layers("Conv2DTranspose", kernel="transposed", one_kernel=True, operator="TRANSPOSE_CONV", tensors=6, **_kernel)
# Float, and then ADD, of its bias.
_layers("Conv3DTranspose", kernel="transposed", operator="ADD", tensors=10, **_kernel)
_layers("EinsumDense", kernel="einsum", activated=True, tensors=9)
_layers("Embedding", kernel="table", zeroed_by_weights=True, reads_integers=True, tensors=4)
# Ids in one call, vectors in another: twins open it.
_layers("ReversibleEmbedding", zeroed_by_weights=True, tensors=4)
_layers("SimpleRNNCell LSTMCell GRUCell", kernel="cell")
_layers("LSTM", tensors=21)
_layers("GRU", tensors=25)
_layers("SimpleRNN", activated=True, tensors=9)
_layers("Bidirectional", tensors=42)
_layers("MultiHeadAttention", tensors=38)


# Constants by channel, and normalization.


def _offset(op, base: Traits) -> Traits:
    """x * scale + offset; the converter leaves out a product with 1 and a sum with 0."""
    if np.any(np.asarray(op.offset)):
        return base
    idle = "by one" if np.all(np.asarray(op.scale) == 1) else ""
    return dataclasses.replace(
        base, operator="MUL", keeps_zero=True, homogeneous=True, idle=idle, moves="identity" if idle else ""
    )


def _center(op, base: Traits) -> Traits:
    return base if op.center else dataclasses.replace(base, operator="MUL")


_layers("BatchNormalization", statistics="batch", affine=True, zeroed_by_weights=True, operator="ADD",
        tensors=4)  # fmt: skip
_layers("Rescaling", _offset, affine=True, elementwise=True, operator="ADD", tensors=4)
_layers("Normalization", affine=True, operator="MUL", tensors=6)
_layers("LayerNormalization", _center, statistics="axes", operator="ADD", tensors=19)
_layers("GroupNormalization", _center, statistics="groups", operator="ADD", tensors=34)
_layers("RMSNormalization", statistics="axes", keeps_zero=True, operator="MUL")
_layers("UnitNormalization", statistics="axes", keeps_zero=True, operator="MUL")
_operations("Normalize", statistics="axes", keeps_zero=True)


# Element by element, of one tensor and of several.

_operations("Absolute Abs", elementwise=True, keeps_zero=True, homogeneous=True, output_range=_POSITIVE, operator="ABS")
_operations("Negative", elementwise=True, keeps_zero=True, homogeneous=True)
_operations("Square", elementwise=True, keeps_zero=True, output_range=_POSITIVE)
_operations("Sqrt", elementwise=True, keeps_zero=True, output_range=_POSITIVE, operator="SQRT")
_operations("Rsqrt", elementwise=True, output_range=_POSITIVE, operator="RSQRT")
_both("Add", joins="add", elementwise=True, operator="ADD")
_both("Subtract", joins="subtract", elementwise=True, operator="SUB")
_both("Multiply", joins="multiply", elementwise=True, operator="MUL")
_operations("Divide TrueDivide", joins="divide", elementwise=True, operator="DIV")
_both("Maximum", joins="maximum", elementwise=True, operator="MAXIMUM")
_both("Minimum", joins="minimum", elementwise=True, operator="MINIMUM")
_layers("Average", joins="average", elementwise=True, operator="MUL")
_operations("Where", joins="select", elementwise=True, operator="SELECT_V2")
_both("Dot", multiplies=True)
_operations("Matmul Einsum Tensordot", multiplies=True)


# Values that move.

_moving: dict[str, Any] = {"keeps_zero": True, "homogeneous": True}


def _by_one(*attributes: str) -> _Adjust:
    def adjust(op, base: Traits) -> Traits:
        one = all(np.all(np.asarray(getattr(op, name)) == 1) for name in attributes)
        return dataclasses.replace(base, idle="by one", moves="identity") if one else base

    return adjust


def _by_zero(attribute: str) -> _Adjust:
    def adjust(op, base: Traits) -> Traits:
        return base if np.any(getattr(op, attribute)) else dataclasses.replace(base, idle="by zero", moves="identity")

    return adjust


def _by_interpolation(op, base: Traits) -> Traits:
    """Nearest neighbours are values that were there."""
    if isinstance(op, layers.UpSampling2D) and np.all(np.asarray(op.size) == 1):
        return dataclasses.replace(base, idle="by one", moves="identity")
    if op.interpolation == "nearest":
        return base
    linear = op.interpolation == "bilinear"
    operator = "RESIZE_BILINEAR" if linear and not getattr(op, "antialias", False) else ""
    return dataclasses.replace(base, moves="", interpolates="linear" if linear else "other", operator=operator)


def _cast(op, base: Traits) -> Traits:
    kept = keras.backend.standardize_dtype(op.dtype).startswith(("float", "bfloat"))
    return base if kept else Traits(reads_integers=True)


def _pad(op, base: Traits) -> Traits:
    # What stands at the border of another mode is an argument of the call.
    return dataclasses.replace(base, moves="", operator="PAD") if op.mode == "constant" else base


_layers("Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout GaussianDropout GaussianNoise",
        training_only=True, moves="identity", **_moving)  # fmt: skip
_layers("Identity", moves="identity", idle="linear", tensors=0, **_moving)
_layers("ActivityRegularization", moves="identity", tensors=0, **_moving)
_operations("StopGradient Copy", moves="identity", **_moving)
_operations("Cast", _cast, moves="identity", operator="CAST", **_moving)
_layers("Flatten", moves="view", tensors=2, **_moving)
_both("Reshape", moves="view", tensors=2, **_moving)
_operations("ExpandDims Squeeze Ravel", moves="view", **_moving)
_layers("Permute", moves="order", tensors=2, **_moving)
_operations("Transpose Swapaxes Moveaxis Flip Fliplr Flipud Roll Rot90", moves="order", **_moving)
_layers("RepeatVector", moves="selection", **_moving)
_operations(
    """BroadcastTo CropImages GetItem Repeat Slice Split ArraySplit Hsplit Vsplit Dsplit Take Tile Unstack""",
    moves="selection", **_moving,
)  # fmt: skip
_both("Concatenate", joins="concatenate", moves="selection", operator="CONCATENATION", **_moving)
_operations("Stack Hstack Vstack Dstack", joins="concatenate", moves="selection", **_moving)
_layers("Cropping1D Cropping2D Cropping3D", _by_zero("cropping"), moves="selection", by_channel=True, tensors=4,
        **_moving)  # fmt: skip
_layers("ZeroPadding1D ZeroPadding2D ZeroPadding3D", _by_zero("padding"), pads=True, by_channel=True, operator="PAD",
        tensors=2, **_moving)  # fmt: skip
_operations("PadImages", pads=True, operator="PAD", **_moving)
_operations("Pad", _pad, moves="selection")
_layers("UpSampling1D UpSampling3D", _by_one("size"), moves="selection", by_channel=True, **_moving)
_layers("UpSampling2D", _by_interpolation, moves="selection", by_channel=True, tensors=2, **_moving)
_layers("Resizing", _by_interpolation, moves="selection", **_moving)
_operations("Resize", _by_interpolation, moves="selection", **_moving)


# Many values to one.

_pool: dict[str, Any] = {"over": "window", "by_channel": True, **_moving}
_layers("MaxPooling1D", _by_one("pool_size", "strides"), reduces="max", operator="MAX_POOL_2D", tensors=5, **_pool)
_layers("MaxPooling2D", _by_one("pool_size", "strides"), reduces="max", operator="MAX_POOL_2D", tensors=1, **_pool)
_layers("AveragePooling1D", _by_one("pool_size", "strides"), reduces="mean", operator="AVERAGE_POOL_2D", tensors=5,
        **_pool)  # fmt: skip
_layers("AveragePooling2D", _by_one("pool_size", "strides"), reduces="mean", operator="AVERAGE_POOL_2D", tensors=1,
        **_pool)  # fmt: skip
# TensorFlow Lite has no operators for pooling in three dimensions.
_layers("MaxPooling3D", _by_one("pool_size", "strides"), reduces="max", **_pool)
_layers("AveragePooling3D", _by_one("pool_size", "strides"), reduces="mean", **_pool)
_global: dict[str, Any] = {"over": "positions", "by_channel": True, "tensors": 2, **_moving}
_layers("GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D", reduces="max", operator="REDUCE_MAX", **_global)
_layers("GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D", reduces="mean", operator="MEAN",
        **_global)  # fmt: skip
_operations("Max Amax", reduces="max", over="axes", operator="REDUCE_MAX", **_moving)
_operations("Min Amin", reduces="min", over="axes", operator="REDUCE_MIN", **_moving)
_operations("Mean", reduces="mean", over="axes", operator="MEAN", **_moving)
_operations("Sum", reduces="sum", over="axes", operator="SUM", **_moving)


# Whole numbers and shapes.

_layers("Discretization CategoryEncoding Hashing", reads_integers=True)
_layers("IntegerLookup", reads_integers=True, vocabulary=True)
_layers("StringLookup TextVectorization", vocabulary=True)
_operations("FullLike OnesLike ZerosLike", reads_shape=True)
