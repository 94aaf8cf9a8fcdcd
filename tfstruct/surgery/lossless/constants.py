"""Which channels are constant whatever the input: values carried forward, tensor by tensor.

A tensor's values are an array of its rank: each axis of its full size, or of size 1 where all positions are alike. NaN
stands for what depends on the input.
"""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers

from tfstruct.graph import Call, Graph, is_training_only
from tfstruct.graph.contraction import (
    DEPTHWISE,
    SEPARABLE,
    Contraction,
    Weights,
    contraction,
    depthwise_by_groups,
    pads,
    plain,
)
from tfstruct.graph.kinds import kind_of
from tfstruct.graph.operation_traits import classes_that, function_traits, layers_with, traits_of
from tfstruct.graph.rules.contractions import channel_axis
from tfstruct.keras_internals.operation_types import operation

_MANY = 1 << 22  # elements; a larger tensor is not written out to follow a reshape


@dataclasses.dataclass(frozen=True)
class _Handler:
    run: Callable
    local: bool


_HANDLERS: dict[type, _Handler] = {}


def handles(*types: type, local: bool = True):
    """Registers how values pass. `local`: what stays of the output depends on no channel that goes."""

    def register(function):
        for kind in types:
            _HANDLERS[kind] = _Handler(function, local)
        return function

    return register


def _handler_of(op) -> _Handler | None:
    if is_training_only(op):
        return _HANDLERS[layers.Identity]
    kind = kind_of(op, _HANDLERS)
    return None if kind is None else _HANDLERS[kind]


def is_local(call: Call) -> bool:
    """Whether each channel of the output depends on the same channel of the inputs only."""
    found = _handler_of(call.op)
    return depthwise_by_groups(call) or (found is not None and found.local)


def unknown(rank: int) -> np.ndarray:
    return np.full((1,) * rank, np.nan)


def constants(graph: Graph, read: Weights) -> dict[int, np.ndarray]:
    """The values of every tensor, by `Channels.key`; those missing are unknown."""
    found: dict[int, np.ndarray] = {}
    for call in graph.calls:
        handler = _handler_of(call.op)
        if handler is None or call.node.arguments.kwargs.get("training"):
            continue
        arrived = [found.get(x.key, unknown(x.rank)) for x in call.inputs]
        with np.errstate(all="ignore"):
            made = handler.run(call, arrived, read)
        if made is None:
            continue
        for channels, values in zip(call.outputs, made if isinstance(made, list) else [made], strict=True):
            values = np.where(np.isfinite(values), values, np.nan)
            if read.tolerance:
                values[np.abs(values) <= read.tolerance] = 0.0
            if not np.isnan(values).all():
                found[channels.key] = values
    return found


def along(values: np.ndarray, axis: int, size: int) -> np.ndarray:
    """By position on an axis: the value there, NaN where it is unknown or differs along other axes."""
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    result = np.where((rows == rows[:, :1]).all(1), rows[:, 0], np.nan)
    return np.repeat(result, size) if len(result) != size else result


def spread(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """A tensor's values from those along one axis."""
    return vector.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


# Layers that sum over channels, or make them.


@handles(*layers_with("dense", "conv", "transposed", "separable"), local=False)
def _contracted(call, arrived, read):
    if depthwise_by_groups(call):
        return _depthwise(call, arrived, read)
    view = contraction(call)
    if view is None:
        return None
    x = summed_over(view, arrived[0], read)
    rows = np.flatnonzero(np.isnan(x))
    hidden = view.reads(rows, read).any(0)
    made = view.summed(x, read)
    if call.op.use_bias:
        made = made + read(call.op.bias)
    made = np.where(hidden, np.nan, made)
    return _activated(call.op.activation, spread(made, view.out_axis, len(call.shapes[0])))


def summed_over(view: Contraction, values: np.ndarray, read: Weights) -> np.ndarray:
    """The constants that a contraction sums over: NaN where one is unknown, or meets a border and is not zero."""
    call, size = view.call, view.call.input.shape[view.axis]
    assert size is not None  # a kernel was built for it
    x = along(values, view.axis, size)
    if plain(call, *SEPARABLE):
        return _taps(read(call.op.depthwise_kernel), x, pads(call)).ravel()
    return np.where(x != 0, np.nan, x) if view.pads else x


def _taps(kernel: np.ndarray, x: np.ndarray, padded: bool) -> np.ndarray:
    """Shape (channels, multiplier): what a depthwise kernel makes of constants, without a bias."""
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    made = kernel.sum(0, dtype=np.float64) * x[:, None]
    if padded:
        made = np.where(x[:, None] != 0, np.nan, made)
    return np.where((kernel == 0).all(0), 0.0, made)


@handles(*DEPTHWISE)
def _depthwise(call, arrived, read):
    if not plain(call, *DEPTHWISE) and not depthwise_by_groups(call):
        return None
    layer, rank = call.op, call.input.rank
    axis = channel_axis(layer, rank)
    width = call.input.shape[axis]
    kernel = read(layer.kernel)
    kernel = kernel.reshape(*kernel.shape[: layer.rank], width, -1)
    made = _taps(kernel, along(arrived[0], axis, width), pads(call)).ravel()
    if layer.use_bias:
        made = made + read(layer.bias)
    return _activated(layer.activation, spread(made, axis, rank))


@handles(layers.Embedding)
def _embedding(call, arrived, read):
    if not plain(call, layers.Embedding):
        return None
    table = read(call.op.embeddings)
    return spread(np.where((table == table[:1]).all(0), table[0], np.nan), -1, len(call.shapes[0]))


# Elementwise.


def _applied(function, values: np.ndarray) -> np.ndarray:
    """An elementwise function of the known values, run as it is."""
    hidden = np.isnan(values)
    if hidden.all():
        return values
    x = keras.ops.convert_to_tensor(np.where(hidden, 0.0, values), "float64")
    return np.where(hidden, np.nan, keras.ops.convert_to_numpy(function(x)))


def _activated(function, values):
    """None where the activation function may look at more than one element."""
    if function is None:
        return values
    return _applied(function, values) if function_traits(function).elementwise else None


# Those below have a way of their own: it is known what their weights and functions are.
@handles(*classes_that(lambda traits: traits.elementwise and not traits.joins))
def _function(call, arrived, read):
    if len(arrived) != 1:
        return None
    return _applied(lambda x: _run(call, [x]), arrived[0])


def _run(call, tensors):
    """The operation itself on other tensors."""
    given, tensors = call.node.arguments, iter(tensors)
    args, kwargs = keras.tree.map_structure(
        lambda x: next(tensors) if isinstance(x, keras.KerasTensor) else x, (given.args, given.kwargs)
    )
    return call.op.call(*args, **kwargs)


@handles(layers.Activation)
def _activation(call, arrived, read):
    return _activated(call.op.activation, arrived[0])


@handles(*classes_that(lambda traits: traits.moves == "identity" and traits.views and not traits.training_only))
def _same(call, arrived, read):
    return arrived[0]


@handles(layers.PReLU)
def _prelu(call, arrived, read):
    x, alpha = arrived[0], read(call.op.alpha)[None]
    return np.where(x > 0, x, np.where(np.isnan(x), np.nan, alpha * x))


@handles(layers.Rescaling)
def _rescaling(call, arrived, read):
    return arrived[0] * np.asarray(call.op.scale) + np.asarray(call.op.offset)


@handles(layers.BatchNormalization)
def _batch_normalization(call, arrived, read):
    layer, rank = call.op, call.input.rank
    scale = np.ones(()) if layer.gamma is None else spread(read(layer.gamma), layer.axis, rank)
    beta = np.zeros(()) if layer.beta is None else spread(read(layer.beta), layer.axis, rank)
    mean, variance = (spread(Weights()(x), layer.axis, rank) for x in (layer.moving_mean, layer.moving_variance))
    made = (arrived[0] - mean) * (scale / np.sqrt(variance.astype(np.float64) + layer.epsilon)) + beta
    return np.where(scale == 0, beta, made)


def _product(a, b):
    # The other factor is finite.
    return np.where((a == 0) | (b == 0), 0.0, a * b)


_JOINS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add, "subtract": np.subtract, "multiply": _product, "divide": np.divide, "maximum": np.maximum,
    "minimum": np.minimum, "average": np.add,
}  # fmt: skip
_JOINING = classes_that(lambda traits: traits.joins in _JOINS)


@handles(*(kind for kind in _JOINING if issubclass(kind, layers.Layer)))
def _merged(call, arrived, read):
    # Tensors of unequal rank are broadcast after the batch there.
    rank = max(x.ndim for x in arrived)
    arrived = [x.reshape(x.shape[:1] + (1,) * (rank - x.ndim) + x.shape[1:]) for x in arrived]
    made = arrived[0]
    for other in arrived[1:]:
        made = _JOINS[traits_of(call.op).joins](made, other)
    return made / len(arrived) if traits_of(call.op).joins == "average" else made


@handles(*(kind for kind in _JOINING if not issubclass(kind, layers.Layer)))
def _operator(call, arrived, read):
    given, tensors = call.node.arguments, iter(arrived)
    parts = [*given.args, *given.kwargs.values()]
    parts = [next(tensors) if isinstance(x, keras.KerasTensor) else np.asarray(x, np.float64) for x in parts]
    if len(parts) != 2 or next(tensors, None) is not None:
        return None
    made = _JOINS[traits_of(call.op).joins](*parts)
    return made if made.ndim == len(call.shapes[0]) else None


# Movement.


@handles(*classes_that(lambda traits: traits.by_channel and traits.over != "positions" and not traits.pads))
def _spatial(call, arrived, read):
    rank = call.input.rank
    axis = channel_axis(call.op, rank) if hasattr(call.op, "data_format") else rank - 1
    return spread(along(arrived[0], axis, call.input.shape[axis]), axis, rank)


@handles(*classes_that(lambda traits: traits.by_channel and traits.pads))
def _zero_padding(call, arrived, read):
    made = _spatial(call, arrived, read)
    grown = tuple(call.shapes[0]) != tuple(call.input.shape) or None in call.input.shape[1:]
    return np.where(made == 0, 0.0, np.nan) if grown else made


@handles(*classes_that(lambda traits: traits.over == "positions"))
def _global_pooling(call, arrived, read):
    axis = channel_axis(call.op, call.input.rank)
    made = along(arrived[0], axis, call.input.shape[axis])
    return spread(made, axis if call.op.keepdims else 1, len(call.shapes[0]))


@handles(layers.Concatenate)
def _concatenated(call, arrived, read):
    rank = call.inputs[0].rank
    axis = call.op.axis % rank
    if any(x.shape[axis] is None for x in call.inputs):
        return None
    return _in_a_row(arrived, [x.shape[axis] for x in call.inputs], axis)


def _in_a_row(arrived: Sequence[np.ndarray], sizes, axis: int):
    others = np.broadcast_shapes(*((*x.shape[:axis], 1, *x.shape[axis + 1 :]) for x in arrived))
    wide = [np.broadcast_to(x, (*others[:axis], n, *others[axis + 1 :])) for x, n in zip(arrived, sizes, strict=True)]
    return np.concatenate(wide, axis)


@handles(layers.Permute)
def _permuted(call, arrived, read):
    return np.transpose(arrived[0], (0, *call.op.dims))


@handles(layers.RepeatVector)
def _repeated(call, arrived, read):
    return arrived[0][:, None, :]


@handles(layers.Flatten, layers.Reshape)
def _reshaped(call, arrived, read):
    values, shape, target = arrived[0], call.input.shape, call.shapes[0]
    if isinstance(call.op, layers.Flatten) and call.op.data_format == "channels_first" and len(shape) > 1:
        values, shape = np.moveaxis(values, 1, -1), (shape[0], *shape[2:], shape[1])
    if np.isnan(values).all():
        return None
    if len(target) > 1 and len(shape) > 1 and shape[-1] == target[-1] and all(n == 1 for n in values.shape[1:-1]):
        return values.reshape(1, *(1,) * (len(target) - 2), values.shape[-1])
    if None in shape[1:] or None in target[1:] or np.prod(shape[1:], dtype=float) > _MANY:
        return None
    return np.broadcast_to(values, (1, *shape[1:])).reshape(1, *target[1:])


_MOVING = classes_that(lambda traits: traits.moves in ("view", "order", "selection"))


@handles(*(kind for kind in _MOVING if not issubclass(kind, layers.Layer)))
def _moved(call, arrived, read):
    """By moving the values as the operation moves the data; None where it mixes in axes of unknown size."""
    if all(np.isnan(x).all() for x in arrived):
        return None
    wide = []
    for values, channels in zip(arrived, call.inputs, strict=True):
        sizes = [m if n is None else n for n, m in zip(channels.shape, values.shape, strict=True)]
        if np.prod(sizes, dtype=float) > _MANY:
            return None
        # A batch of one stands for any.
        sizes[0] = values.shape[0]
        wide.append(keras.ops.convert_to_tensor(np.broadcast_to(values, sizes), "float64"))
    try:
        made = [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(_run(call, wide))]
    except Exception:
        return None
    fits = len(made) == len(call.shapes) and all(
        x.ndim == len(shape) and all(n in ((1,) if m is None else (1, m)) for n, m in zip(x.shape, shape, strict=True))
        for x, shape in zip(made, call.shapes, strict=True)
    )
    return made if fits else None


@handles(operation("Concatenate"))
def _concatenate_operator(call, arrived, read):
    return _concatenated(call, arrived, read)


@handles(*classes_that(lambda traits: traits.over == "axes" and traits.stays_within))
def _reduced(call, arrived, read):
    """The graph marks reductions over channels as statistics; over other axes a constant stays what it is."""
    rank = call.input.rank
    axes = call.op.axis
    axes = range(rank) if axes is None else [axes] if isinstance(axes, int) else axes
    axes = tuple(axis % rank for axis in axes)
    values = arrived[0]
    first = values[tuple(slice(0, 1) if i in axes else slice(None) for i in range(rank))]
    made = np.where((values == first).all(axes, keepdims=True), first, np.nan)
    return made if call.op.keepdims else made.squeeze(axes)
