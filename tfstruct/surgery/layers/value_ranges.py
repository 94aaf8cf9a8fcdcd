"""Bounds of the values of tensors in inference, whatever the input."""

import math
from collections.abc import Sequence

import keras
from keras import activations, layers

from tfstruct.graph import Call, Graph, is_training_only
from tfstruct.graph.endings import ACTIVATED
from tfstruct.keras_internals.operation_types import operation, operations

Range = tuple[float, float]

ANY: Range = (-math.inf, math.inf)
_BOUNDED = {
    activations.sigmoid: (0.0, 1.0), activations.hard_sigmoid: (0.0, 1.0), activations.softmax: (0.0, 1.0),
    activations.softplus: (0.0, math.inf), activations.exponential: (0.0, math.inf), activations.tanh: (-1.0, 1.0),
    operation("Sigmoid"): (0.0, 1.0), operation("HardSigmoid"): (0.0, 1.0), operation("Softmax"): (0.0, 1.0),
    operation("Softplus"): (0.0, math.inf),
    layers.Softmax: (0.0, 1.0),
}  # fmt: skip
_MOVING = (
    layers.Identity,
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D, layers.AveragePooling1D, layers.AveragePooling2D,
    layers.AveragePooling3D, layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D,
    layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D, layers.Flatten,
    layers.Reshape, layers.Permute, layers.RepeatVector, layers.Cropping1D, layers.Cropping2D, layers.Cropping3D,
    layers.UpSampling1D, layers.Concatenate, layers.Maximum, layers.Minimum, layers.Average,
)  # fmt: skip
_PADDING = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)


def value_ranges(graph: Graph) -> dict[int, Range]:
    """Tensor key -> bounds of its values; tensors that are missing are not bounded."""
    known: dict[int, Range] = {}
    for call in graph.calls:
        if len(call.outputs) == 1:
            found = _range(call, [known.get(x.key, ANY) for x in call.inputs])
            if found != ANY:
                known[call.outputs[0].key] = found
    return known


def rectifier(op) -> Range | None:
    """The interval that a rectifier passes unchanged: (0, its cap). None for any other operation."""
    kind = type(op)
    if kind is layers.ReLU:
        return (0.0, math.inf if op.max_value is None else float(op.max_value)) if op.threshold == 0 else None
    if kind in (layers.LeakyReLU, layers.ELU, *operations("Relu LeakyRelu")):
        return (0.0, math.inf)
    if kind is operation("Elu") and op.alpha == 1:
        return (0.0, math.inf)
    if kind is operation("Relu6"):
        return (0.0, 6.0)
    if kind is layers.Activation:
        return _RECTIFIERS.get(op.activation)
    return None


_RECTIFIERS = {
    activations.relu: (0.0, math.inf), activations.relu6: (0.0, 6.0), activations.leaky_relu: (0.0, math.inf),
    activations.elu: (0.0, math.inf),
}  # fmt: skip
_CUTTING = {activations.relu: (0.0, math.inf), activations.relu6: (0.0, 6.0)}


def _range(call: Call, came: Sequence[Range]) -> Range:
    op, kind = call.op, type(call.op)
    cut = _cut(op)
    if cut is not None:
        return _clip(came[0] if len(came) == 1 and not _weighs(op) else ANY, cut)
    function = op.activation if kind in ACTIVATED else kind
    if function in _BOUNDED:
        return _BOUNDED[function]
    if kind is layers.Activation and op.activation is activations.linear:
        return came[0]
    if not came or (is_training_only(op) and call.argument("training")):
        return ANY
    lows, highs = zip(*came, strict=True)
    if (
        is_training_only(op)
        or kind in _MOVING
        or (kind is layers.UpSampling2D and op.interpolation in ("nearest", "bilinear"))
    ):
        return min(lows), max(highs)
    if kind in _PADDING:
        return min(0.0, lows[0]), max(0.0, highs[0])
    if kind is layers.Add:
        return sum(lows), sum(highs)
    if kind is layers.Multiply and min(lows) >= 0:
        return math.prod(lows), math.inf if math.inf in highs else math.prod(highs)
    return ANY


def _cut(op) -> Range | None:
    """The interval that an operation clips its output to."""
    kind = type(op)
    if kind is layers.ReLU and not op.negative_slope:
        return rectifier(op)
    if kind in operations("Relu Relu6"):
        return rectifier(op)
    if kind in ACTIVATED and not isinstance(op.activation, keras.layers.Layer):
        return _CUTTING.get(op.activation)
    return None


def _weighs(op) -> bool:
    return type(op) in ACTIVATED and type(op) is not layers.Activation


def _clip(values: Range, cut: Range) -> Range:
    low, high = (min(max(x, cut[0]), cut[1]) for x in values)
    return low, high
