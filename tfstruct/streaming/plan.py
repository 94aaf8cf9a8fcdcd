"""How to run a streaming model: what comes in and goes out in a call, and which states go on. Plain data."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from tfstruct.reporting.tables import counted
from tfstruct.reporting.tables import shape as sizes


@dataclasses.dataclass(frozen=True)
class StreamInput:
    """An input.

    Attributes:
        name: of it.
        shape: of one call, without the batch.
        dtype: NumPy's name.
        axis: with the batch axis, where the frames are; None for one that is given whole in each call.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    axis: int | None

    @property
    def frames(self) -> int | None:
        """Frames a call."""
        return None if self.axis is None else self.shape[self.axis - 1]


@dataclasses.dataclass(frozen=True)
class StreamOutput:
    """An output.

    Attributes:
        name: of it.
        axis: with the batch axis, where its frames are; None for one that each call makes anew.
        skip: how many of its frames, or of its calls where it has none, are from before the first right one.
        delay: by how many frames of the longest input it is late: of an output with frames, behind the input frames at
            its place; of another one, behind the last frame that it is of.
        wait: how many frames of the longest input have come when the first right one comes out.
    """

    name: str
    axis: int | None
    skip: int
    delay: int
    wait: int


@dataclasses.dataclass(frozen=True)
class StreamState:
    """A state: what a call gives as `output` goes into the next one as `input`. At first it is zero.

    Attributes:
        input, output: names.
        shape: without the batch.
        dtype: of the Keras model.
        holds: what it is.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    dtype: str
    holds: str = ""

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class StreamPlan:
    """How a streaming model is run.

    Attributes:
        hop: frames of the longest input that one call takes.
        inputs, outputs, states: of it.
    """

    hop: int
    inputs: tuple[StreamInput, ...]
    outputs: tuple[StreamOutput, ...]
    states: tuple[StreamState, ...]

    @property
    def state_bytes(self) -> int:
        """Of the states of one stream, in the types of the Keras model."""
        return sum(state.size * np.dtype(state.dtype).itemsize for state in self.states)

    def facts(self, state_bytes: int) -> tuple[tuple[str, str], ...]:
        """(what, value): what a call takes, how late outputs are, how much is held."""
        return (
            ("a call takes", ", ".join(_said(x) for x in self.inputs)),
            *((f"delay of {out.name}", _late(out)) for out in self.outputs),
            ("states", f"{counted(len(self.states), 'tensor')}, {state_bytes:,} bytes a stream"),
        )

    def by_name(self, given) -> Mapping[str, np.ndarray]:
        """What is given for one input, or for several by name, by name."""
        return given if isinstance(given, Mapping) else {self.inputs[0].name: given}

    def handed_out(self, found: Mapping[str, np.ndarray]):
        """What comes out by name; alone where there is one output."""
        return next(iter(found.values())) if len(found) == 1 else found

    def zeros(self, batch: int) -> dict[str, np.ndarray]:
        """The states at the start of as many streams, in the types of the Keras model."""
        return {state.input: np.zeros((batch, *state.shape), state.dtype) for state in self.states}

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping) -> "StreamPlan":
        """Raises TypeError, KeyError or ValueError for other data."""

        def each(kind, name):
            made = []
            for one in data[name]:
                given = {key: tuple(map(int, value)) if key == "shape" else value for key, value in one.items()}
                made.append(kind(**given))
            return tuple(made)

        hop = int(data["hop"])
        if hop < 1:
            raise ValueError(f"a hop of {hop} frames")
        return cls(hop, each(StreamInput, "inputs"), each(StreamOutput, "outputs"), each(StreamState, "states"))


def _said(x: StreamInput) -> str:
    what = "whole in each call" if x.frames is None else counted(x.frames, "frame")
    return f"{x.name} ({what}: {sizes(x.shape)})"


def _late(out: StreamOutput) -> str:
    if not out.wait:
        return "does not depend on the frames"
    where = "the frames at its place" if out.axis is not None else "the last frame that it is of"
    late = counted(out.delay, "frame") if out.delay else "none"
    return f"{late} behind {where}; the first right one comes with frame {out.wait}"
