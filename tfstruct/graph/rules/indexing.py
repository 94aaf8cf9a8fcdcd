"""Operations of `keras.ops` that reshape, reorder, join, cut, repeat or pad: labels move as the data does."""

import keras
import numpy as np

from tfstruct.errors import ModelError
from tfstruct.graph.call import Axes, Call, Channels, fixed, followed
from tfstruct.graph.rules.arguments import array_of, axes_of, given, key_of, operands
from tfstruct.graph.rules.movement import join, reshaped
from tfstruct.graph.rules.registry import rule
from tfstruct.keras_internals.operation_types import operations


def held(call: Call, why: str) -> list[Axes]:
    """All channels that come in stay."""
    call.freeze_inputs(f"{call.path} {why}")
    return call.untouched()


@rule(*operations("Reshape"))
def reshape(call: Call) -> Axes | list[Axes]:
    """Labels of the longest ends of both shapes that hold the same data; what lies before, batch and all, stays."""
    newshape = call.op.newshape
    if not isinstance(newshape, (list, tuple)):
        call.folds = True
        return held(call, "reshapes to a shape that is not known")
    axes = reshaped_at_the_end(call, "reshapes it together with axes of unknown size")
    if any(labels is not None for labels in axes):
        call.set(
            "newshape",
            lambda kept: tuple(
                n if labels is None or n == -1 else len(kept(labels)) for n, labels in zip(newshape, axes, strict=True)
            ),
        )
    return axes


def reshaped_at_the_end(call: Call, why: str) -> Axes:
    """The axes of a reshaped tensor: labels of the longest ends of both shapes that hold the same data. What lies
    before, batch and all, stays, for the reason `why`."""
    call.folds = True
    shape, target = call.input.shape, call.shapes[0]
    ours, theirs = _same_end(shape[1:], target[1:])
    i, j = len(shape) - ours, len(target) - theirs
    for labels in call.input.axes[:i]:
        call.freeze(labels, f"{call.path} {why}")
    return (*(None,) * j, *reshaped(call, shape[i:], call.input.axes[i:], target[j:]))


def _same_end(shape, target) -> tuple[int, int]:
    """How many axes at the end of either shape hold the same number of elements, as many as possible."""
    best = (0, 0)
    i = j = 0
    a = b = 1
    while True:
        if a == b:
            best = (i, j)
        # Ones at the front of either belong to the end too.
        longer_ours = a < b or (a == b and i < len(shape) and (j == len(target) or target[-1 - j] != 1))
        if longer_ours:
            if i == len(shape) or shape[-1 - i] is None:
                return best
            a, i = a * shape[-1 - i], i + 1
        else:
            if j == len(target) or target[-1 - j] is None:
                return best
            b, j = b * target[-1 - j], j + 1


@rule(*operations("Transpose"))
def transpose(call: Call) -> Axes:
    order = call.op.axes if call.op.axes is not None else range(call.input.rank)[::-1]
    return tuple(call.input.axes[i] for i in order)


@rule(*operations("Swapaxes"))
def swapaxes(call: Call) -> Axes:
    axes = list(call.input.axes)
    i, j = call.op.axis1, call.op.axis2
    axes[i], axes[j] = axes[j], axes[i]
    return tuple(axes)


@rule(*operations("Moveaxis"))
def moveaxis(call: Call) -> Axes:
    rank = call.input.rank
    source, target = axes_of(call.op.source, rank), axes_of(call.op.destination, rank)
    order = [i for i in range(rank) if i not in source]
    for to, came in sorted(zip(target, source, strict=True)):
        order.insert(to, came)
    return tuple(call.input.axes[i] for i in order)


@rule(*operations("ExpandDims"))
def expand_dims(call: Call) -> Axes:
    rank = len(call.shapes[0])
    new = axes_of(call.op.axis, rank)
    rest = iter(call.input.axes)
    return tuple(None if i in new else next(rest) for i in range(rank))


@rule(*operations("Squeeze"))
def squeeze(call: Call) -> Axes:
    rank = call.input.rank
    if call.op.axis is None:
        gone = tuple(i for i, n in enumerate(call.input.shape) if n == 1)
        # Said outright: an axis that is cut down to one channel must not go as well.
        call.set("axis", lambda kept: list(gone))
    else:
        gone = axes_of(call.op.axis, rank)
    for i in gone:
        call.freeze(call.input.axes[i], f"{call.path} squeezes it away")
    return tuple(labels for i, labels in enumerate(call.input.axes) if i not in gone)


@rule(*operations("Concatenate"))
def concatenate(call: Call) -> Axes | list[Axes]:
    tensors = _listed(call)
    return held(call, "joins what no rule knows") if tensors is None else join(call, tensors, call.op.axis)


@rule(*operations("Stack"))
def stack(call: Call) -> Axes | list[Axes]:
    tensors = _listed(call)
    if tensors is None:
        return held(call, "joins what no rule knows")
    axes = list(tensors[0].axes)
    for other in tensors[1:]:
        axes = [call.unite(a, b) for a, b in zip(axes, other.axes, strict=True)]
    axes.insert(call.op.axis % len(call.shapes[0]), None)
    return tuple(axes)


def _listed(call: Call) -> list[Channels] | None:
    """The tensors of a list argument; constants among them carry no channels."""
    ((_, values),) = given(call)
    found = operands(call, enumerate(values))
    return None if found is None else [channels for _, channels, _ in found]


@rule(*operations("Unstack"))
def unstack(call: Call) -> list[Axes]:
    axis = call.op.axis % call.input.rank
    call.freeze(call.input.axes[axis], f"{call.path} takes it apart")
    return [tuple(x for i, x in enumerate(call.input.axes) if i != axis)] * len(call.shapes)


@rule(*operations("Split ArraySplit"))
def split_at(call: Call) -> list[Axes]:
    return split(call, call.op.axis % call.input.rank)


def split(call: Call, axis: int) -> list[Axes]:
    """An axis in parts, of which each keeps its own channels."""
    labels, axes = call.input.axes[axis], list(call.input.axes)
    if labels is None:
        return [tuple(axes)] * len(call.shapes)
    ends = np.cumsum([shape[axis] for shape in call.shapes])[:-1]
    parts = np.split(labels, ends)

    def places(kept):
        counts = [_some(call, len(kept(part))) for part in parts]
        return np.cumsum(counts)[:-1].tolist() if len(set(counts)) > 1 else len(parts)

    call.set("indices_or_sections", places)
    return [(*axes[:axis], part, *axes[axis + 1 :]) for part in parts]


def _some(call: Call, count: int) -> int:
    if count == 0:
        raise ModelError(
            f"All channels that {call.path} ({type(call.op).__name__}) selects would go. Keep at least one of them."
        )
    return count


@rule(*operations("GetItem"))
def get_item(call: Call) -> Axes | list[Axes]:
    """`x[key]`: a slice of channels is followed by their labels, and selects what stays of them afterwards."""
    key = call.argument("key")
    key = tuple(key) if isinstance(key, (list, tuple)) else (key,)
    if not all(k is None or k is Ellipsis or isinstance(k, (int, slice)) for k in key):
        return held(call, "is indexed by something else than numbers and slices")
    if Ellipsis not in key:
        key = (*key, Ellipsis)
    at = key.index(Ellipsis)
    spare = call.input.rank - sum(k is not None for k in key) + 1
    key = (*key[:at], *(slice(None),) * spare, *key[at + 1 :])
    axes: list[np.ndarray | None] = []
    chosen: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}  # place in the key -> axis, labels, positions
    axis = 0
    for n, k in enumerate(key):
        if k is None:
            axes.append(None)
            continue
        labels = call.input.axes[axis]
        if isinstance(k, int):
            if labels is not None:
                k %= len(labels)
                call.freeze(labels[k : k + 1], f"{call.path} takes this channel alone")
                chosen[n] = (axis, labels, np.array([k]))
        elif labels is None:
            axes.append(None)
        else:
            places = np.arange(len(labels))[k]
            axes.append(labels[places])
            if len(places) != len(labels) or (places[:1] != 0).any():
                chosen[n] = (axis, labels, places)
        axis += 1
    if chosen:
        place = key_of(call, "key", 1)

        def cut(kept, key=key):
            key, takes = list(key), []
            for n, (axis, labels, places) in chosen.items():
                new = _new_places(call, labels, places, kept)
                if isinstance(key[n], int):
                    key[n] = int(new[0])
                    continue
                key[n] = _as_slice(new)
                if key[n] is None:
                    key[n] = slice(None)
                    takes.append((axis, new))
            return tuple(key), takes

        def rewrite(kept, x, key):
            key, takes = cut(kept)
            for axis, places in takes:
                x = keras.ops.take(x, places, axis=axis)
            return x[key] if takes else None

        call.set_argument(place, lambda kept: cut(kept)[0])
        call.rewrite = rewrite
    return tuple(axes)


def _new_places(call: Call, labels, places, kept) -> np.ndarray:
    """Where those of the selected positions that stay are afterwards."""
    found = followed(kept, labels, places)
    _some(call, len(found))
    return found


def _as_slice(places: np.ndarray) -> slice | None:
    """A slice that selects these positions in this order, or None."""
    steps = np.unique(np.diff(places))
    if len(steps) > 1:
        return None
    step = int(steps[0]) if len(steps) else 1
    if step == 0:
        return None
    stop = int(places[-1]) + (1 if step > 0 else -1)
    return slice(int(places[0]), None if stop < 0 else stop, step)


@rule(*operations("Slice"))
def slice_(call: Call) -> Axes | list[Axes]:
    starts = array_of(call.argument("start_indices"))
    if starts is None:
        return held(call, "starts its slice at a place that is not known")
    lengths = call.op.shape
    axes: list[np.ndarray | None] = []
    news = []
    for axis, (start, length) in enumerate(zip(starts.tolist(), lengths, strict=True)):
        labels = call.input.axes[axis]
        if labels is None:
            axes.append(None)
            continue
        stop = len(labels) if length == -1 else start + length
        axes.append(labels[start:stop])
        news.append((axis, labels, np.arange(start, stop)))
    if news:

        def begin(kept):
            begins = starts.copy()
            for axis, labels, places in news:
                begins[axis] = _new_places(call, labels, places, kept)[0]
            return begins.tolist()

        call.set_argument(key_of(call, "start_indices", 1), begin)
        call.set(
            "shape",
            lambda kept: tuple(
                n if labels is None else len(kept(labels)) for n, labels in zip(lengths, axes, strict=True)
            ),
        )
    return tuple(axes)


@rule(*operations("Take"))
def take(call: Call) -> Axes | list[Axes]:
    x, indices = call.argument("x"), array_of(call.argument("indices"))
    if not isinstance(x, Channels) or call.op.axis is None:
        return held(call, "looks up a table that is no layer's")
    axis = call.op.axis % x.rank
    labels = x.axes[axis]
    rank = len(call.shapes[0]) - x.rank + 1  # of the indices
    if indices is None or (labels is not None and indices.ndim > 1):
        other = call.argument("indices")
        if isinstance(other, Channels) and call.labels.rows:
            call.looks_up(labels, other)
        else:
            call.freeze(labels, f"{call.path} picks from it by indices that no rule knows")
        for picked in other.axes if isinstance(other, Channels) else ():
            call.freeze(picked, f"{call.path} takes it as indices")
        labels = None
    if labels is None or indices is None:
        return (*x.axes[:axis], *(None,) * rank, *x.axes[axis + 1 :])
    places, kind = indices.astype(int) % len(labels), indices.dtype
    key = key_of(call, "indices", 1)
    if indices.ndim == 0:
        call.freeze(labels[[places]], f"{call.path} takes this channel alone")
        call.set_argument(key, lambda kept: int(_new_places(call, labels, places.reshape(1), kept)[0]))
        return (*x.axes[:axis], *x.axes[axis + 1 :])
    call.set_argument(key, lambda kept: _new_places(call, labels, places, kept).astype(kind))
    return (*x.axes[:axis], labels[places], *x.axes[axis + 1 :])


@rule(*operations("Pad"))
def pad(call: Call) -> Axes:
    """Constants beside the channels stay; other modes repeat channels that must not go."""
    widths = list(call.op.pad_width)
    widths = widths * call.input.rank if len(widths) == 1 else widths
    axes = []
    for labels, (before, after) in zip(call.input.axes, widths, strict=True):
        if labels is None or not (before or after):
            axes.append(labels)
        elif call.op.mode == "constant":
            axes.append(np.concatenate([fixed(before), labels, fixed(after)]))
        else:
            call.freeze(labels, f"{call.path} pads it by its own channels")
            axes.append(None)
    return tuple(axes)


@rule(*operations("Flip"))
def flip(call: Call) -> Axes:
    over = axes_of(call.op.axis, call.input.rank)
    return tuple(x[::-1] if x is not None and i in over else x for i, x in enumerate(call.input.axes))


@rule(*operations("Roll"))
def roll(call: Call) -> Axes:
    axes = list(call.input.axes)
    for i in axes_of(call.op.axis, call.input.rank):
        call.freeze(axes[i], f"{call.path} rolls along it")
        axes[i] = None
    return tuple(axes)


@rule(*operations("Tile"))
def tile(call: Call) -> Axes:
    repeats = call.op.repeats
    repeats = [repeats] if isinstance(repeats, int) else list(repeats)
    rank = len(call.shapes[0])
    repeats = [1] * (rank - len(repeats)) + repeats
    axes = (*(None,) * (rank - call.input.rank), *call.input.axes)
    return tuple(None if x is None else np.tile(x, n) for x, n in zip(axes, repeats, strict=True))


@rule(*operations("Repeat"))
def repeat(call: Call) -> Axes | list[Axes]:
    repeats = call.op.repeats
    if call.op.axis is None:
        return held(call, "flattens it")
    axes = list(call.input.axes)
    axis = call.op.axis % call.input.rank
    if axes[axis] is not None:
        if isinstance(repeats, int):
            axes[axis] = np.repeat(axes[axis], repeats)
        else:
            call.freeze(axes[axis], f"{call.path} repeats each channel another number of times")
            axes[axis] = None
    return tuple(axes)


@rule(*operations("BroadcastTo"))
def broadcast_to(call: Call) -> Axes:
    rank = len(call.shapes[0])
    axes = [*(None,) * (rank - call.input.rank), *call.input.axes]
    for i, (labels, n) in enumerate(zip(axes, call.shapes[0], strict=True)):
        if labels is not None and len(labels) != n:
            call.freeze(labels, f"{call.path} broadcasts it over other channels")
            axes[i] = None
    shape = call.op.shape
    if any(labels is not None for labels in axes):
        call.set(
            "shape", lambda kept: tuple(n if x is None else len(kept(x)) for n, x in zip(shape, axes, strict=True))
        )
    return tuple(axes)
