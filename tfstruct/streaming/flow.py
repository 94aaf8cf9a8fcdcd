"""Tensors of a streaming model while it is built, and the states that hold frames from one call to the next.

Notation: a call brings `hop` frames of the longest input. A tensor that keeps its time axis gets `chunk` frames a call.
Its frames have the numbers that they have in the whole-sequence model: in call n = 0, 1, ... it has those from
n * chunk - lag to (n + 1) * chunk - lag - 1. A frame with a negative number is from before the stream's start.
"""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import keras
from keras import layers, ops

from tfstruct.errors import ModelError


class Again(Exception):
    """What was found out only on the way changes what stands before: the model is built again."""


class Unstreamable(Exception):
    """Why an operation cannot stream."""


@dataclasses.dataclass(frozen=True)
class Frames:
    """A tensor with a time axis: those of its frames that come in one call.

    Attributes:
        tensor: with `chunk` frames along `axis`.
        lag: how many frames it is behind; below 0 it begins with frames of zeros that never come, see `Flow.settled`.
        clean: its frames from before the start are zero.
    """

    tensor: keras.KerasTensor
    axis: int
    chunk: int
    lag: int
    clean: bool


@dataclasses.dataclass(frozen=True)
class Once:
    """A tensor without a time axis, anew in each call: what the model makes of a window, or of all frames so far.

    Attributes:
        delay: how many frames (of the longest input) came after the last one that it is of.
        first: the number of the first call in which it is right.
    """

    tensor: keras.KerasTensor
    delay: int
    first: int


# What is known of a tensor; None where it does not depend on time.
Flowing = Frames | Once | None


@dataclasses.dataclass(frozen=True)
class State:
    """A state: what comes out of one call as `after` goes into the next one as `before`, at first zeros."""

    name: str
    before: keras.KerasTensor
    after: keras.KerasTensor
    what: str


@dataclasses.dataclass
class _History:
    count: int
    joined: keras.KerasTensor


def cut(x: keras.KerasTensor, axis: int, start: int, stop: int) -> keras.KerasTensor:
    """Some of a tensor along an axis."""
    if start == 0 and stop == x.shape[axis]:
        return x
    return x[(slice(None),) * axis + (slice(start, stop),)]


class Flow:
    """What is known of the tensors of a streaming model, and the states that it has got.

    Args:
        hop: frames of the longest input a call.
        frames: of the longest input in the whole-sequence model, or in the window; None where it is open.
        exact: whether frames from before the start are set to zero where layers pad with zeros.
        reserve: how many frames a state is known to need, by the place where it is made.
    """

    def __init__(self, hop: int, frames: int | None, exact: bool, reserve: dict):
        self.hop, self.frames, self.exact, self._reserve = hop, frames, exact, reserve
        self.states: list[State] = []
        self.notes: dict[str, list[str]] = {}
        self._known: dict[int, Frames | Once] = {}
        self._histories: dict[int, _History] = {}
        self._started: dict[int, _History] = {}
        self._delayed: dict[tuple[int, int], Frames] = {}
        self._zeroed: dict[int, Frames] = {}
        self._names: dict[str, int] = {}
        self.place = ""  # of the operation that is made: names states

    def of(self, tensor) -> Flowing:
        """What is known of a tensor; None where it does not depend on time."""
        return self._known.get(id(tensor))

    def add(self, made: Frames | Once) -> keras.KerasTensor:
        """Notes what is known of a tensor."""
        self._known[id(made.tensor)] = made
        return made.tensor

    def frames_of(self, tensor, axis: int, chunk: int, lag: int, clean: bool = False) -> keras.KerasTensor:
        """Notes a tensor with a time axis."""
        return self.add(Frames(tensor, axis, chunk, lag, clean or lag == 0))

    def note(self, what: str, path: str) -> None:
        """Something for the report, and a layer that it holds for."""
        paths = self.notes.setdefault(what, [])
        if path not in paths:
            paths.append(path)

    def name(self, what: str) -> str:
        """A name that no other layer of the model has."""
        base = f"{self.place}_{what}"
        number = self._names[base] = self._names.get(base, 0) + 1
        return base if number == 1 else f"{base}_{number}"

    def own_name(self) -> str:
        """The name of the operation that is made, for the one layer in its place."""
        number = self._names[self.place] = self._names.get(self.place, 0) + 1
        return self.place if number == 1 else f"{self.place}_{number}"

    def state(self, shape: Sequence[int], dtype: str, kind: str = "state") -> tuple[str, keras.KerasTensor]:
        """An input for a state; `keep` gives it what follows."""
        name = self.name(kind)
        return name, layers.InputLayer(shape=tuple(shape), dtype=dtype, name=name).output

    def keep(self, name: str, before, after, what: str) -> None:
        """Hands a state on to the next call."""
        self.states.append(State(name, before, layers.Identity(name=f"{name}_next", dtype=after.dtype)(after), what))

    def history(self, x: Frames, count: int) -> keras.KerasTensor:
        """The `count` frames before the present ones, and these. All that ask for frames of one tensor share a state.

        Raises:
            Again: a state that was made for fewer is needed longer.
        """
        if count <= 0:
            return x.tensor if not count else cut(x.tensor, x.axis, -count, x.chunk)
        known = self._histories.get(id(x.tensor))
        if known is None:
            place = len(self._histories)
            held = max(count, self._reserve.get(place, 0))
            shape = [*x.tensor.shape]
            shape[x.axis] = held
            name, before = self.state(shape[1:], x.tensor.dtype)
            joined = layers.Concatenate(axis=x.axis, name=self.name("frames"), dtype=x.tensor.dtype)([before, x.tensor])
            after = cut(joined, x.axis, x.chunk, x.chunk + held)
            self.keep(name, before, after, f"the last {held} of the frames that come in")
            known = self._histories[id(x.tensor)] = _History(held, joined)
            self._reserve.setdefault(place, held)
        if known.count < count:
            self._reserve[list(self._histories).index(id(x.tensor))] = count
            raise Again
        return cut(known.joined, x.axis, known.count - count, known.count + x.chunk)

    def delayed(self, x: Frames, lag: int) -> Frames:
        """The same frames, later."""
        if lag == x.lag:
            return x
        if (id(x.tensor), lag) not in self._delayed:
            tensor = cut(self.history(x, lag - x.lag), x.axis, 0, x.chunk)
            made = Frames(tensor, x.axis, x.chunk, lag, x.clean or x.lag <= 0)
            self.add(made)
            self._delayed[id(x.tensor), lag] = made
        return self._delayed[id(x.tensor), lag]

    def settled(self, x: Frames) -> Frames:
        """With the frames of zeros that a padding puts before its first one."""
        return self.delayed(x, 0) if x.lag < 0 else x

    def zeroed(self, x: Frames) -> Frames:
        """With zeros for frames from before the start, where it has others."""
        if x.clean or x.lag <= 0 or not self.exact:
            return x
        if id(x.tensor) in self._zeroed:
            return self._zeroed[id(x.tensor)]
        started = cut(self._has_started(x.chunk, x.lag, x.tensor), 1, 0, x.chunk)
        shape = [1] * len(x.tensor.shape)
        shape[x.axis] = x.chunk
        if len(shape) != 3 or x.axis != 1:
            started = ops.reshape(started, (-1, *shape[1:]))
        made = layers.Multiply(name=self.name("started"), dtype=x.tensor.dtype)([x.tensor, started])
        zeroed = Frames(made, x.axis, x.chunk, x.lag, True)
        self.add(zeroed)
        self._zeroed[id(x.tensor)] = zeroed
        return zeroed

    def _has_started(self, chunk: int, lag: int, like) -> keras.KerasTensor:
        """For each present frame of a tensor behind by `lag`, 1 if it is not from before the start, else 0; and of the
        `lag` frames that follow. A line of ones that is as late: shape (batch, lag + chunk, 1)."""
        key = -chunk
        known = self._started.get(chunk)
        if known is None:
            held = max(lag, self._reserve.get(key, 0))
            name, before = self.state((held, 1), like.dtype, "started")
            first = like[(slice(None), *[0] * (len(like.shape) - 1))]
            ones = ops.ones_like(ops.reshape(first, (-1, 1, 1)))
            ones = ops.concatenate([ones] * chunk, axis=1) if chunk > 1 else ones
            joined = layers.Concatenate(axis=1, name=self.name("calls"))([before, ones])
            self.keep(name, before, cut(joined, 1, chunk, chunk + held), "whether frames are from before the start")
            known = self._started[chunk] = _History(held, joined)
        if known.count < lag:
            self._reserve[key] = lag
            raise Again
        return cut(known.joined, 1, known.count - lag, known.count + chunk)

    def started_at_all(self, x: Frames) -> keras.KerasTensor | None:
        """1 if the present frames, which come a call together, are not from before the start, else 0: (batch, 1); None
        where none is."""
        if x.lag <= 0:
            return None
        return self._has_started(x.chunk, x.lag, x.tensor)[:, 0]

    def window(self, x: Frames, count: int) -> tuple[keras.KerasTensor, int, int]:
        """The last window of `count` frames that begins with a hop: it, its delay and its first call.

        Window m has the frames from m * chunk on. In call n it is m = n - w with w = ceil((lag + count) / chunk) - 1.
        """
        x = self.settled(x)
        behind = -(-(x.lag + count) // x.chunk) - 1
        tensor = cut(self.history(x, behind * x.chunk - x.lag), x.axis, 0, count)
        return tensor, (behind + 1) * self.hop - self._in_input(x, count), behind

    def last(self, x: Frames) -> tuple[keras.KerasTensor, int, int]:
        """The last frame of a hop, without its axis, its delay and its first call."""
        x = self.settled(x)
        behind = -(-x.lag // x.chunk)
        place = x.chunk - 1 + x.lag - behind * x.chunk
        return x.tensor[(slice(None),) * x.axis + (place,)], behind * self.hop, behind

    def _in_input(self, x: Frames, count: int) -> int:
        """How many frames of the longest input a window spans."""
        if self.frames is not None:
            return self.frames
        return int(Fraction(count * self.hop, x.chunk))

    def together(self, given: Sequence[Frames]) -> list[Frames]:
        """Tensors with frames of the same number.

        Raises:
            Unstreamable: they do not have the same number of frames a call.
        """
        if len({x.chunk for x in given}) > 1:
            counts = ", ".join(str(x.chunk) for x in given)
            raise Unstreamable(f"it joins tensors with {counts} frames a call")
        lag = max(0, *(x.lag for x in given))
        return [self.delayed(x, lag) for x in given]

    def same_call(self, given: Sequence[Once]) -> list[Once]:
        """Tensors that end with the same frame, the earlier ones held back."""
        delay, first = max(x.delay for x in given), max(x.first for x in given)
        made = []
        for x in given:
            calls, rest = divmod(delay - x.delay, self.hop)
            if rest:
                raise Unstreamable(
                    f"it joins what ends {delay - x.delay} frames apart, which is no multiple of hop={self.hop}: give "
                    f"a smaller hop, or one that divides the {self.frames} frames of a window"
                )
            first = max(first, x.first + calls)
            made.append(self._held_back(x, calls))
        return [dataclasses.replace(x, delay=delay, first=first) for x in made]

    def _held_back(self, x: Once, calls: int) -> Once:
        if not calls:
            return x
        name, before = self.state((calls, *x.tensor.shape[1:]), x.tensor.dtype, "calls_held")
        joined = ops.concatenate([before, ops.expand_dims(x.tensor, 1)], axis=1)
        self.keep(name, before, cut(joined, 1, 1, calls + 1), f"the last {calls} calls")
        return dataclasses.replace(x, tensor=joined[:, 0])

    def chunk_of(self, chunk: int, rate: Fraction) -> int:
        """Frames a call of what has `rate` frames for each one of a tensor.

        Raises:
            NeedsHop: that is no whole number.
        """
        made = chunk * rate
        if made.denominator > 1:
            raise NeedsHop(self.hop * made.denominator)
        return int(made)

    def multiple(self, x: Frames, of: int) -> Frames:
        """With a lag that is a multiple."""
        x = self.settled(x)
        return self.delayed(x, math.ceil(x.lag / of) * of)


class NeedsHop(Again):
    """The model needs more frames a call."""

    def __init__(self, hop: int):
        super().__init__()
        self.hop = hop


def refused(path: str, why: str) -> ModelError:
    """The error for an operation that cannot stream."""
    return ModelError(f"`{path}` cannot stream: {why}.")
