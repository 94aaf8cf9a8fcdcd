"""Does an operation compute each frame alone? Tried on random frames, whatever the operation.

f works frame by frame where f(a, then b) = f(a), then f(b), for all frames a and b. That holds for dense layers over
channels, batch norms, activations and reshapes of what a frame holds; also where it makes k frames of one, or one of k.
"""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from tfstruct.graph.call import Call
from tfstruct.streaming.eager import computed
from tfstruct.streaming.flow import Unstreamable

# Frames of the two parts: multiples of 12, so that one frame can be made of 2, 3, 4, 6 or 12.
_PARTS = (12, 24)
_OPEN = 5  # of other sizes that are open


@dataclasses.dataclass(frozen=True)
class Framewise:
    """How an output follows the frames.

    Attributes:
        axis: of the output, where the time is.
        rate: frames of the output for each one that comes in.
    """

    axis: int
    rate: Fraction


def framewise(call: Call, axes: Sequence[int | None], run: Callable | None = None) -> list[Framewise | None]:
    """By output, how it follows the frames; None for one that has no time axis any more.

    Args:
        call: of the original graph.
        axes: for each tensor among its arguments, its time axis, or None.
        run: what is called in place of the operation, `run(frames) -> call(*args, **kwargs)`, where it depends on
            their number.

    Raises:
        Exception: whatever the operation raises on another number of frames.
        Unstreamable: it is not so.
    """
    rng = np.random.default_rng(0)
    tensors = call.node.arguments.keras_tensors
    parts: list[dict[int, np.ndarray]] = [{}, {}]
    for x, channels, axis in zip(tensors, call.inputs, axes, strict=True):
        shape = [2 if i == 0 and n is None else n or _OPEN for i, n in enumerate(channels.shape)]
        same = None if axis is not None else _drawn(rng, shape, x.dtype)
        for part, frames in zip(parts, _PARTS, strict=True):
            if axis is not None:
                shape[axis] = frames
            part[id(x)] = _drawn(rng, shape, x.dtype) if same is None else same
    whole = {
        id(x): parts[0][id(x)] if axis is None else np.concatenate([part[id(x)] for part in parts], axis)
        for x, axis in zip(tensors, axes, strict=True)
    }
    first, second = (_outputs(call, part, frames, run) for part, frames in zip(parts, _PARTS, strict=True))
    both = _outputs(call, whole, sum(_PARTS), run)
    return [_compared(a, b, ab) for a, b, ab in zip(first, second, both, strict=True)]


def _drawn(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> np.ndarray:
    if "float" in dtype:
        return rng.normal(size=shape).astype("float32")
    return rng.integers(0, 2, shape).astype(dtype)


def _outputs(call: Call, arrays: dict[int, np.ndarray], frames: int, run) -> list[np.ndarray]:
    return [x.astype("float64") for x in computed(call, arrays, run(frames) if run else None)]


def _compared(a: np.ndarray, b: np.ndarray, both: np.ndarray) -> Framewise | None:
    if a.shape == b.shape == both.shape:
        return None
    for axis in range(1, a.ndim):
        rest = [x.shape[:axis] + x.shape[axis + 1 :] for x in (a, b, both)]
        if a.shape[axis] * 2 != b.shape[axis] or rest[0] != rest[1] or rest[0] != rest[2]:
            continue
        joined = np.concatenate([a, b], axis)
        if joined.shape == both.shape and np.allclose(joined, both, 1e-3, 1e-4 * max(1e-6, np.abs(both).max())):
            return Framewise(axis, Fraction(a.shape[axis], _PARTS[0]))
    raise Unstreamable("it mixes frames")
