"""Normalization layers: per channel, or by statistics over channels."""

from keras import layers

from tfstruct.graph.call import Axes, Call, Each
from tfstruct.graph.rules.arguments import adopt, axes_of, given, operands
from tfstruct.graph.rules.registry import rule
from tfstruct.keras_internals.operation_types import operations


@rule(layers.BatchNormalization)
def batch_normalization(call: Call) -> Axes:
    layer = call.op
    channels = call.input.axes[layer.axis]
    for variable in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        call.weight(variable, Each(channels))
    call.in_place = True
    return call.input.axes


def _axes_of(layer) -> tuple[int, ...]:
    axis = layer.axis
    return tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)


@rule(layers.LayerNormalization, layers.RMSNormalization)
def layer_normalization(call: Call) -> Axes:
    layer = call.op
    over = [call.input.axes[axis] for axis in _axes_of(layer)]
    for labels in over:
        call.statistics(labels)
    for name in ("gamma", "beta", "scale"):
        variable = getattr(layer, name, None)
        if variable is not None and hasattr(variable, "shape"):
            call.weight(variable, *(Each(labels) for labels in over))
    call.in_place = True
    return call.input.axes


@rule(layers.UnitNormalization)
def unit_normalization(call: Call) -> Axes:
    for axis in _axes_of(call.op):
        call.statistics(call.input.axes[axis])
        call.sums(call.input.axes[axis])
    return call.input.axes


@rule(layers.GroupNormalization)
def group_normalization(call: Call) -> Axes:
    layer = call.op
    channels = call.input.axes[layer.axis]
    width = call.input.shape[layer.axis]
    groups = width if layer.groups == -1 else layer.groups
    if channels is not None:
        if groups == width:
            # One channel a group: its statistics are its own.
            call.set("groups", channels)
        else:
            call.blocks(channels, groups)
            call.statistics(channels)
    for i, labels in enumerate(call.input.axes):
        if i != layer.axis % call.input.rank:
            call.statistics(labels)  # every other axis is averaged over
    for variable in (layer.gamma, layer.beta):
        call.weight(variable, Each(channels))
    return call.input.axes


@rule(layers.SpectralNormalization)
def spectral_normalization(call: Call) -> Axes:
    call.freeze_inputs(f"{call.path} divides by a norm over all channels of the kernel")
    return call.untouched()[0]


@rule(layers.Normalization)
def normalization(call: Call) -> Axes:
    for labels in call.input.axes:
        call.freeze(labels, f"{call.path} holds statistics of its input")
    return call.input.axes


@rule(*operations("LayerNorm RMSNorm BatchNorm"))
def normalized(call: Call) -> Axes | list[Axes]:
    """`keras.ops.layer_normalization` and its kind: scales, offsets, statistics go with the axes that they are for."""
    axes = axes_of(call.op.axis, call.input.rank)
    found = operands(call, given(call))
    trailing = sorted(axes) == list(range(call.input.rank - len(axes), call.input.rank))
    batch = type(call.op).__name__ == "BatchNorm"
    if found is None or found[0][2] is not None or not (trailing or batch):
        call.freeze_inputs(f"{call.path} normalizes in a way that no rule knows")
        return call.untouched()[0]
    result = list(call.input.axes)
    for key, own, constant in found[1:]:
        labels = [result[axis] for axis in sorted(axes)][len(axes) - own.rank :]
        if constant is not None:
            own = adopt(call, key, constant, labels)
        for axis, its in zip(sorted(axes)[len(axes) - own.rank :], own.axes, strict=True):
            result[axis] = call.unite(result[axis], its) if result[axis] is not None or its is not None else None
    if not batch:
        for axis in axes:
            call.statistics(result[axis])
    return tuple(result)
