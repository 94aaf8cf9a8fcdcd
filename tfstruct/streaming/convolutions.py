"""Convolutions, poolings and paddings: they read some frames around each, of which a state holds the earlier ones."""

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction

import keras
from keras import layers

from tfstruct.graph.operation_traits import layers_with, traits_of
from tfstruct.streaming.flow import Frames, Unstreamable, cut
from tfstruct.streaming.rules import Place, of_window, rule, several

PADS = "pads with zeros before the first frame of the stream"


def same_padding(length: int | None, span: int, stride: int) -> int:
    """The frames of zeros that `padding="same"` puts before the first.

    ceil(T / stride) frames come out of T. Where T is open it is taken for a multiple of the stride.
    """
    missing = span - stride if length is None else (-(-length // stride) - 1) * stride + span - length
    return max(missing, 0) // 2


def _spatial(place: Place) -> int:
    """The time axis as a position among the spatial axes."""
    op, frames = place.op, place.frames
    if getattr(op, "data_format", "channels_last") != "channels_last":
        raise Unstreamable("its channels stand first; expected data_format='channels_last'")
    if frames.axis > len(frames.tensor.shape) - 2:
        raise Unstreamable("its channels are the frames")
    return frames.axis - 1


def _makes_one(place: Place) -> bool:
    """Whether of the whole window one frame is left."""
    return place.length is not None and place.call.shapes[0][place.frames.axis] == 1


def _convolved(place: Place, x: Frames, run: Callable, span: int, stride: int) -> object:
    """With `padding="valid"` over time.

    Output frame k is of the frames from k * stride on, and its last one makes it as late as it is:
    lag' = ceil((lag + span - stride) / stride).
    """
    chunk = place.flow.chunk_of(x.chunk, Fraction(1, stride))
    lag = max(0, math.ceil((x.lag + span - stride) / stride))
    tensor = place.flow.history(x, lag * stride - x.lag)
    tensor = cut(tensor, x.axis, 0, (chunk - 1) * stride + span)
    return place.flow.frames_of(run(tensor), x.axis, chunk, lag)


def _padded(place: Place, x: Frames, count: int) -> Frames:
    """With frames of zeros before the first one."""
    if not count:
        return x
    place.flow.note(PADS, place.call.path)
    x = place.flow.zeroed(place.flow.settled(x))
    return dataclasses.replace(x, lag=x.lag - count)


_PADDINGS = {n: getattr(layers, f"ZeroPadding{n}D") for n in (1, 2, 3)}


def _zeros_around(place: Place, pads: list[tuple[int, int]]) -> Callable:
    """What puts zeros around the spatial axes."""
    if not any(map(any, pads)):
        return lambda x: x
    return _PADDINGS[len(pads)](pads[0] if len(pads) == 1 else tuple(pads), name=place.flow.name("pad"))


def _pads_of_features(op, axis: int, shape, strides, dilations) -> list[tuple[int, int]]:
    """What `padding="same"` puts around the other spatial axes."""
    found = []
    for i, (n, size, stride, dilation) in enumerate(zip(shape, op.kernel_size, strides, dilations, strict=True)):
        if i == axis or op.padding != "same":
            found.append((0, 0))
            continue
        if n is None:
            raise Unstreamable("sizes of its input besides the time are open")
        missing = max((-(-n // stride) - 1) * stride + (size - 1) * dilation + 1 - n, 0)
        found.append((missing // 2, missing - missing // 2))
    return found


@rule(*layers_with("conv", "depthwise", "separable"))
def convolution(place: Place) -> object:
    """Zeros are put around features by a layer of their own, as over time there are none but at the start."""
    op, x, axis = place.op, place.frames, _spatial(place)
    if _makes_one(place):
        return of_window(place, x, place.run)
    count = len(x.tensor.shape) - 2
    strides, dilations = several(op.strides, count), several(op.dilation_rate, count)
    span = (op.kernel_size[axis] - 1) * dilations[axis] + 1
    before = {"causal": span - 1, "valid": 0}.get(op.padding)
    if before is None:
        before = same_padding(place.length, span, strides[axis])
    pad = _zeros_around(place, _pads_of_features(op, axis, x.tensor.shape[1:-1], strides, dilations))
    if op.padding != "valid":
        place.call.set("padding", lambda kept: "valid")
    return _convolved(place, _padded(place, x, before), lambda y: place.run(pad(y)), span, strides[axis])


@rule(*layers_with("transposed"))
def transposed_convolution(place: Place) -> object:
    """Output frame j is whole with the inputs i of 0 <= j + cropped - i * stride < size."""
    op, axis = place.op, _spatial(place)
    x = place.frames
    count = len(x.tensor.shape) - 2
    strides = several(op.strides, count)
    given = () if op.output_padding is None else several(op.output_padding, count)
    if any(n > 1 for n in several(op.dilation_rate, count)) or any(n is not None for n in given):
        raise Unstreamable("it has a dilation or an output_padding")
    same = op.padding == "same"
    if same and any(n > step for i, (n, step) in enumerate(zip(op.kernel_size, strides, strict=True)) if i != axis):
        raise Unstreamable("it crops features: use padding='valid' and a Cropping2D")
    size, stride = op.kernel_size[axis], strides[axis]
    if same and size < stride:
        raise Unstreamable("its kernel is shorter than its stride")
    x = place.flow.zeroed(place.flow.settled(x))
    before = -(-size // stride) - 1
    cropped = (size - stride) // 2 if same else 0
    if same:
        place.call.set("padding", lambda kept: "valid")
    made = place.run(place.flow.history(x, before))
    made = cut(made, x.axis, before * stride, (before + x.chunk) * stride)
    return place.flow.frames_of(made, x.axis, x.chunk * stride, x.lag * stride + cropped)


_POOLS: dict[str, dict[int, type]] = {
    kind: {n: getattr(layers, f"{name}Pooling{n}D") for n in (1, 2, 3)}
    for kind, name in (("max", "Max"), ("mean", "Average"))
}


def features_pooled(place: Place, x: Frames, kind: str, sizes, strides, padding: str) -> Frames:
    """Pooled over features first: of what is pooled over time less has to be held."""
    pool = _POOLS[kind][len(sizes)](tuple(sizes), tuple(strides), padding, name=place.flow.name("features"))
    made = Frames(pool(x.tensor), x.axis, x.chunk, x.lag, x.clean)
    place.flow.add(made)
    return made


@rule(*_POOLS["max"].values(), *_POOLS["mean"].values())
def pooling(place: Place) -> object:
    """The largest or the mean over frames of those over features."""
    op, x, axis = place.op, place.flow.settled(place.frames), _spatial(place)
    count = len(x.tensor.shape) - 2
    sizes, strides = list(several(op.pool_size, count)), list(several(op.strides, count))
    span, stride = sizes[axis], strides[axis]
    one = _makes_one(place)
    if not one and op.padding == "same" and same_padding(place.length, span, stride):
        raise Unstreamable("it pads frames with what is no zero: use padding='valid', or a stride as long as the pool")
    kind = traits_of(op).reduces
    padding = op.padding
    if any(n > 1 for i, n in enumerate(sizes) if i != axis) and (one or span > stride or padding == "same"):
        own, steps = ([1 if i == axis else n for i, n in enumerate(given)] for given in (sizes, strides))
        x = features_pooled(place, x, kind, own, steps, padding)
        sizes, strides = ([n if i == axis else 1 for i in range(count)] for n in (span, stride))
    pool = _POOLS[kind][count](
        tuple(sizes), tuple(strides), padding if one else "valid", name=place.name_of_successor()
    )
    if one:
        return of_window(place, x, pool)
    return _convolved(place, x, pool, span, stride)


@rule(*_PADDINGS.values())
def zero_padding(place: Place) -> object:
    """Zeros after the last frame never come."""
    op, axis = place.op, _spatial(place)
    given = op.padding if isinstance(op.padding[0], list | tuple) else [op.padding]
    before = given[axis][0]
    pads = [(0, 0) if i == axis else tuple(pair) for i, pair in enumerate(given)]
    x = _padded(place, place.frames, before)
    made = _zeros_around(place, pads)(x.tensor)
    return place.flow.add(Frames(made if made is not x.tensor else layers.Identity(
        name=place.name_of_successor())(made), x.axis, x.chunk, x.lag, x.clean))  # fmt: skip


@rule(*(getattr(layers, f"Cropping{n}D") for n in (1, 2, 3)))
def cropping(place: Place) -> object:
    """The first frames are from before the start, then."""
    op, axis = place.op, _spatial(place)
    given = op.cropping if isinstance(op.cropping[0], list | tuple) else [op.cropping]
    x = place.flow.settled(place.frames)
    tensor = x.tensor
    for i, (first, last) in enumerate(given):
        if i != axis:
            tensor = cut(tensor, i + 1, first, tensor.shape[i + 1] - last)
    made = keras.layers.Identity(name=place.name_of_successor())(tensor)
    return place.flow.add(Frames(made, x.axis, x.chunk, x.lag + given[axis][0], False))
