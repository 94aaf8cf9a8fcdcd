"""Layers that move, join, repeat or pool data: labels move as the data does."""

from collections.abc import Sequence

import numpy as np
from keras import layers

from tfstruct.graph.call import Axes, Call, Channels, fixed
from tfstruct.graph.rules.contractions import channel_axis
from tfstruct.graph.rules.registry import rule

_POOLS = [getattr(layers, f"{kind}Pooling{n}D") for kind in ("Max", "Average") for n in (1, 2, 3)]
_GLOBAL = [getattr(layers, f"Global{kind}Pooling{n}D") for kind in ("Max", "Average") for n in (1, 2, 3)]
_SPATIAL = [getattr(layers, f"{kind}{n}D") for kind in ("ZeroPadding", "Cropping", "UpSampling") for n in (1, 2, 3)]


@rule(*_POOLS, *_SPATIAL)
def spatial(call: Call) -> Axes:
    rank = call.input.rank
    axis = channel_axis(call.op, rank) if hasattr(call.op, "data_format") else rank - 1
    return tuple(keep_only(call, axis))


def keep_only(call: Call, *axes: int) -> list[np.ndarray | None]:
    """The input's labels on these axes; on all others channels have to stay, as the operation moves along them."""
    rank = call.input.rank
    own = {axis % rank for axis in axes}
    result = []
    for i, labels in enumerate(call.input.axes):
        if i not in own:
            call.freeze(labels, f"{call.path} moves along it")
        result.append(labels if i in own else None)
    return result


@rule(*_GLOBAL)
def global_pooling(call: Call) -> Axes:
    rank = call.input.rank
    axis = channel_axis(call.op, rank)
    kept = keep_only(call, axis)
    if call.op.keepdims:
        return tuple(kept)
    return (kept[0], kept[axis])


@rule(layers.Concatenate)
def concatenate(call: Call) -> Axes:
    return join(call, call.inputs, call.op.axis)


def join(call: Call, tensors: Sequence[Channels], axis: int) -> Axes:
    """Axes of the tensors joined along `axis`; their other axes are united."""
    rank = tensors[0].rank
    axis %= rank
    result: list[np.ndarray | None] = []
    for i in range(rank):
        arrived = [t.axes[i] for t in tensors]
        if i == axis:
            result.append(_in_a_row(call, tensors, axis))
            continue
        joined = arrived[0]
        for labels in arrived[1:]:
            joined = call.unite(joined, labels)
        result.append(joined)
    return tuple(result)


def _in_a_row(call: Call, tensors, axis) -> np.ndarray | None:
    if all(t.axes[axis] is None for t in tensors):
        return None
    if any(t.shape[axis] is None for t in tensors):
        for t in tensors:
            call.freeze(t.axes[axis], f"{call.path} joins it with an axis of unknown size")
        return None
    return np.concatenate([fixed(t.shape[axis]) if t.axes[axis] is None else t.axes[axis] for t in tensors])


@rule(layers.Flatten)
def flatten(call: Call) -> Axes:
    rank = call.input.rank
    channels = call.input
    if call.op.data_format == "channels_first" and rank > 1:
        # Flatten moves the channels last before it flattens.
        order = [0, *range(2, rank), 1]
        channels = Channels(
            tuple(channels.shape[i] for i in order), tuple(channels.axes[i] for i in order), channels.key
        )
    return (None, *reshaped(call, channels.shape[1:], channels.axes[1:], call.shapes[0][1:]))


@rule(layers.Reshape)
def reshape(call: Call) -> Axes:
    axes = (None, *reshaped(call, call.input.shape[1:], call.input.axes[1:], call.shapes[0][1:]))
    target = call.shapes[0]
    if any(labels is not None for labels in axes):
        call.set(
            "target_shape",
            lambda kept: tuple(
                -1 if n is None else (n if labels is None else len(kept(labels)))
                for n, labels in list(zip(target, axes, strict=True))[1:]
            ),
        )
    return axes


def reshaped(call: Call, shape, axes, target) -> list[np.ndarray | None]:
    """Labels of the axes after a reshape from `shape` to `target`, batch excluded.

    The shapes are cut into the smallest runs of equal product. Merging axes gives every merged position the label of
    its channel, or the product of labels where several axes carry channels. Splitting an axis whose labels repeat
    leaves them on the axis along which they differ; where they differ along several, each gets labels of its own whose
    products the old ones are, so that whole rows or whole columns can go (attention heads, widths inside heads).
    """
    if all(labels is None for labels in axes):
        return [None] * len(target)
    if None in shape or None in target:
        if _same_tail(shape, target):
            return _aligned(call, shape, axes, target)
        for labels in axes:
            call.freeze(labels, f"{call.path} reshapes a tensor of unknown size")
        return [None] * len(target)
    result: list[np.ndarray | None] = []
    for ours, theirs in _runs(shape, target):
        merged = _merged(call, [shape[i] for i in ours], [axes[i] for i in ours])
        result += _split(call, merged, [target[i] for i in theirs])
    return result


def _same_tail(shape, target) -> bool:
    """Unknown sizes stay where they are: equal counts of them, and equal products between them."""
    return _segments(shape) == _segments(target)


def _segments(shape) -> list[int]:
    products = [1]
    for n in shape:
        if n is None:
            products.append(1)
        else:
            products[-1] *= n
    return products


def _aligned(call, shape, axes, target) -> list[np.ndarray | None]:
    result: list[np.ndarray | None] = []
    start = begin = 0
    ends = [i for i, n in enumerate(shape) if n is None] + [len(shape)]
    stops = [i for i, n in enumerate(target) if n is None] + [len(target)]
    for end, stop in zip(ends, stops, strict=True):
        result += reshaped(call, shape[start:end], axes[start:end], target[begin:stop]) if stop > begin else []
        if stop < len(target):
            result.append(None)
        start, begin = end + 1, stop + 1
    return result


def _runs(shape, target) -> list[tuple[list[int], list[int]]]:
    """Pairs of consecutive axes, before and after, of equal product; none can be cut further."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) or j < len(target):
        ours, theirs = ([i] if i < len(shape) else []), ([j] if j < len(target) else [])
        a = shape[i] if ours else 1
        b = target[j] if theirs else 1
        i, j = i + len(ours), j + len(theirs)
        while a != b:
            if a < b:
                a *= shape[i]
                ours.append(i)
                i += 1
            else:
                b *= target[j]
                theirs.append(j)
                j += 1
        runs.append((ours, theirs))
    return runs


def _merged(call: Call, sizes, axes) -> np.ndarray | None:
    """The labels of axes merged into one, flat."""
    labelled = [i for i, labels in enumerate(axes) if labels is not None]
    if not labelled:
        return None
    flat = None
    for i in labelled:
        view = np.reshape(axes[i], [-1 if k == i else 1 for k in range(len(sizes))])
        view = np.broadcast_to(view, sizes).ravel()
        flat = view if flat is None else call.labels.product(flat, view)
    return flat


def _split(call: Call, flat: np.ndarray | None, sizes) -> list[np.ndarray | None]:
    """Labels of the axes that one axis is split into."""
    if flat is None:
        return [None] * len(sizes)
    if not sizes:
        call.freeze(flat, f"{call.path} squeezes it away")
        return []
    block = flat.reshape(sizes)
    varies = [i for i in range(len(sizes)) if (block != block.take([0], axis=i)).any()]
    if not varies:
        # One channel: it is the longest axis, or the last of several of size 1.
        varies = [max(range(len(sizes)), key=lambda i: (sizes[i], i))]
    result: list[np.ndarray | None] = [None] * len(sizes)
    if len(varies) == 1:
        result[varies[0]] = np.moveaxis(block, varies[0], 0).reshape(sizes[varies[0]], -1)[:, 0]
        return result
    factors = [call.labels.factors(block, i) for i in varies]
    for n, i in enumerate(varies):
        result[i] = factors[n] if factors[n] is not None else call.fresh(sizes[i], f"axis{i}")
    made = _merged(call, [sizes[i] for i in varies], [result[i] for i in varies])
    assert made is not None  # all of them have labels by now
    still = tuple(slice(None) if i in varies else 0 for i in range(len(sizes)))
    call.labels.unite(made, block[still].ravel())
    return result


@rule(layers.Permute)
def permute(call: Call) -> Axes:
    return (call.input.axes[0], *(call.input.axes[i] for i in call.op.dims))


@rule(layers.RepeatVector)
def repeat_vector(call: Call) -> Axes:
    return (None, None, call.input.axes[-1])


@rule(layers.Dot)
def dot(call: Call) -> Axes:
    a, b = call.inputs
    axes = call.op.axes
    if isinstance(axes, int):
        axes = (axes if axes >= 0 else axes % a.rank, axes if axes >= 0 else axes % b.rank)
    i, j = axes[0] % a.rank, axes[1] % b.rank
    joined = call.unite(a.axes[i], b.axes[j])
    call.sums(joined)
    if call.op.normalize:
        call.statistics(joined)
    left = [labels for k, labels in enumerate(a.axes) if k != i]
    right = [labels for k, labels in enumerate(b.axes) if k not in (0, j)]
    axes = tuple(left + right)
    result = axes if len(axes) == len(call.shapes[0]) else (*axes, None)
    inner = 1 if joined is not None else a.shape[i]
    positions = call.positions(result)
    call.macs(
        None if positions is None or inner is None else positions * inner, joined, *(x for x in result if x is not None)
    )
    return result
