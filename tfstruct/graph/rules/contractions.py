"""Layers that sum over the channels that come in and make new ones: dense, convolutions, embeddings."""

import keras
import numpy as np
from keras import layers

from tfstruct.graph.call import Axes, Call, Each, In, Out
from tfstruct.graph.rules.elementwise import activation
from tfstruct.graph.rules.registry import rule
from tfstruct.keras_internals.layer_parts import stored_weight


def channel_axis(layer, rank: int) -> int:
    """The positive axis of the channels of a convolution or pooling layer or operation."""
    first = (getattr(layer, "data_format", None) or keras.config.image_data_format()) == "channels_first"
    return 1 if first else rank - 1


def _at(axes: Axes, axis: int, labels: np.ndarray | None) -> Axes:
    return (*axes[:axis], labels, *axes[axis + 1 :])


def _spatial(call: Call, channels: np.ndarray | None) -> Axes:
    axis = channel_axis(call.op, call.input.rank)
    # A kernel slides over the other axes: they cannot lose single positions.
    for i, labels in enumerate(call.input.axes):
        if i != axis:
            call.freeze(labels, f"{call.path} slides over it")
    return _at((None,) * call.input.rank, axis, channels)


@rule(layers.Dense)
def dense(call: Call) -> Axes:
    layer, came = call.op, call.input.axes[-1]
    made = call.fresh(layer.units)
    axes = (*call.input.axes[:-1], made)
    call.weight(stored_weight(layer), In(came), Out(made))
    call.weight(layer.bias, Out(made))
    call.set("units", made)
    activation(call, layer.activation, made)
    labelled = [labels for labels in axes[:-1] if labels is not None]
    call.macs(_times(call.positions(axes), 1 if came is not None else call.input.shape[-1]), came, made, *labelled)
    return axes


@rule(layers.EinsumDense)
def einsum_dense(call: Call) -> Axes:
    layer = call.op
    came, kernel, out = subscripts(layer.equation, call.input.rank)
    by_letter: dict[str, np.ndarray | None] = {}
    for letter, labels in zip(came, call.input.axes, strict=True):
        by_letter[letter] = labels
    new = [letter for letter in out if letter not in came]
    for letter in new:
        size = call.shapes[0][out.index(letter)]
        by_letter[letter] = call.fresh(size, "" if len(new) == 1 else f"axis{out.index(letter)}")
    axes = tuple(by_letter[letter] for letter in out)
    role = {letter: Out if letter in new else (Each if letter in out else In) for letter in kernel}
    call.weight(stored_weight(layer), *(role[letter](by_letter[letter]) for letter in kernel))
    if layer.bias is not None:
        biased = [letter for letter in out if letter in (layer.bias_axes or "")]
        call.weight(layer.bias, *(Out(by_letter[letter]) for letter in biased))
    activation(call, layer.activation, axes[-1])
    call.set("output_shape", lambda kept: _einsum_shape(layer, out, axes, kept))
    letters = dict.fromkeys((*came[1:], *out[1:]))
    sizes = dict(zip((*came, *out), (*call.input.shape, *call.shapes[0]), strict=True))
    free = [sizes[letter] for letter in letters if by_letter[letter] is None]
    factor = None if None in free else float(np.prod(free, dtype=float))
    call.macs(factor, *(by_letter[letter] for letter in letters))
    return axes


def subscripts(equation: str, rank: int) -> tuple[str, str, str]:
    """The letters of input, kernel and output, an ellipsis written out in capitals."""
    left, out = equation.replace(" ", "").split("->")
    came, kernel = left.split(",")
    if "..." in came:
        spare = "ZYXWVUTSRQ"[: rank - len(came.replace("...", ""))]
        came, kernel, out = (part.replace("...", spare) for part in (came, kernel, out))
    return came, kernel, out


def _einsum_shape(layer, out, axes, kept):
    given = layer.partial_output_shape
    # `output_shape` leaves out the batch: it belongs to the last axes of the result.
    tail = axes[len(axes) - len(given) :]
    return tuple(n if labels is None else len(kept(labels)) for n, labels in zip(given, tail, strict=True))


@rule(layers.Embedding)
def embedding(call: Call) -> Axes:
    made, rows = call.fresh(call.op.output_dim), call.rows(call.op.input_dim)
    call.weight(stored_weight(call.op, "embeddings"), Out(rows), Out(made))
    call.set("output_dim", made)
    if rows is not None:
        call.set("input_dim", rows)
        call.looks_up(rows, call.input)
    return (*call.input.axes, made)


_CONVS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)


@rule(*_CONVS)
def conv(call: Call) -> Axes:
    layer = call.op
    axis = channel_axis(layer, call.input.rank)
    came, width, groups = call.input.axes[axis], call.input.shape[axis], layer.groups
    if groups > 1 and groups == width and came is not None:
        return _depthwise_by_groups(call, came, axis)
    made = call.fresh(layer.filters)
    axes = _spatial(call, made)
    if groups > 1:
        assert width is not None  # a kernel was built for it
        # Without labels the input stays whole, and so do the groups.
        ins = came if came is not None else np.zeros(width, int)
        call.blocks(made, groups)
        call.blocks(came, groups)
        call.weight(stored_weight(layer), *(None,) * layer.rank, In(ins), Out(made), groups=groups)
    else:
        call.weight(stored_weight(layer), *(None,) * layer.rank, In(came), Out(made))
    call.weight(layer.bias, Out(made))
    call.set("filters", made)
    activation(call, layer.activation, axes[-1])
    taps = np.prod(layer.kernel_size) / groups * (1 if came is not None else width)
    call.macs(_times(call.positions(axes), taps), came, made)
    return axes


def _depthwise_by_groups(call: Call, came: np.ndarray, axis: int) -> Axes:
    """One channel a group: an output goes with its input."""
    layer = call.op
    made = np.repeat(came, layer.filters // layer.groups)
    axes = _spatial(call, made)
    call.weight(stored_weight(layer), *(None,) * (layer.rank + 1), Each(made))
    call.weight(layer.bias, Each(made))
    call.set("filters", made)
    activation(call, layer.activation, axes[-1])
    call.set("groups", came)
    call.macs(_times(call.positions(axes), np.prod(layer.kernel_size)), made)
    return axes


@rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed_conv(call: Call) -> Axes:
    layer = call.op
    axis = channel_axis(layer, call.input.rank)
    came = call.input.axes[axis]
    made = call.fresh(layer.filters)
    axes = _spatial(call, made)
    call.weight(layer.kernel, *(None,) * layer.rank, Out(made), In(came))
    call.weight(layer.bias, Out(made))
    call.set("filters", made)
    activation(call, layer.activation, axes[-1])
    # Every input position meets every tap once.
    taps = np.prod(layer.kernel_size) * (1 if came is not None else call.input.shape[axis])
    positions = call.positions(_at((None,) * call.input.rank, axis, made), call.input.shape)
    call.macs(_times(positions, taps), came, made)
    return axes


@rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_conv(call: Call) -> Axes:
    layer = call.op
    axis = channel_axis(layer, call.input.rank)
    came = call.input.axes[axis]
    made = None if came is None else np.repeat(came, layer.depth_multiplier)
    axes = _spatial(call, made)
    call.weight(layer.kernel, *(None,) * layer.rank, Each(came), None)
    call.weight(layer.bias, Each(made))
    activation(call, layer.activation, axes[-1])
    call.macs(_times(call.positions(axes), np.prod(layer.kernel_size)), made)
    return axes


@rule(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_conv(call: Call) -> Axes:
    layer = call.op
    axis = channel_axis(layer, call.input.rank)
    came = call.input.axes[axis]
    between = None if came is None else np.repeat(came, layer.depth_multiplier)
    made = call.fresh(layer.filters)
    axes = _spatial(call, made)
    call.weight(layer.depthwise_kernel, *(None,) * layer.rank, Each(came), None)
    call.weight(layer.pointwise_kernel, *(None,) * layer.rank, In(between), Out(made))
    call.weight(layer.bias, Out(made))
    call.set("filters", made)
    activation(call, layer.activation, axes[-1])
    width = 1 if came is not None else call.input.shape[axis] * layer.depth_multiplier
    positions = _times(call.positions(axes), width)
    call.macs(_times(positions, np.prod(layer.kernel_size)), between)
    call.macs(positions, between, made)
    return axes


def _times(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else float(a * b)
