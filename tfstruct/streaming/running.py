"""A streaming model or file run call by call, and over whole sequences."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tfstruct.errors import DataError
from tfstruct.streaming.plan import StreamPlan

# One call: what comes in by name, states too -> what goes out by name, states too.
Step = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Stream:
    """One stream, or as many side by side as the batch has: it holds their states between calls.

        stream = streaming.start()
        while True:
            y = stream(microphone.read())  # shape (batch, hop, ...)

    Attributes:
        plan: how the model is run.
        calls: how many there were.
    """

    def __init__(self, plan: StreamPlan, step: Step, zeros: Callable[[int], dict[str, np.ndarray]]):
        self.plan, self._step, self._zeros = plan, step, zeros
        self.reset()

    def reset(self) -> None:
        """Begins anew: all states are zero."""
        self.calls = 0
        self.states: dict[str, np.ndarray] | None = None

    @property
    def ready(self) -> bool:
        """Whether what the last call gave is right, in all outputs; before, there are frames from before the start."""
        return self.calls * self.plan.hop >= max((out.wait for out in self.plan.outputs), default=0)

    def __call__(self, frames):
        """One call.

        Args:
            frames: of one hop, with the batch axis: an array, or by name of the input where there are several.

        Returns:
            An array, or by name of the output where there are several.
        """
        found = self.advance(self.plan.by_name(frames))
        return self.plan.handed_out(found)

    def advance(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call: outputs by name of inputs by name."""
        checked = {}
        for port in self.plan.inputs:
            if port.name not in given:
                raise DataError(
                    f"Expected frames for {[one.name for one in self.plan.inputs]}. Received {list(given)}."
                )
            value = np.asarray(given[port.name])
            if value.shape[1:] != port.shape:
                raise DataError(
                    f"Input {port.name!r} takes {(None, *port.shape)} a call: batch, frames, features. "
                    f"Received {value.shape}."
                )
            checked[port.name] = value.astype(port.dtype, copy=False)
        if self.states is None:
            self.states = self._zeros(len(next(iter(checked.values()))))
        made = self._step({**checked, **self.states})
        self.states = {state.input: made[state.output] for state in self.plan.states}
        self.calls += 1
        return {out.name: made[out.name] for out in self.plan.outputs}


def calls_of(plan: StreamPlan, sequences: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """What goes into each call, of whole sequences by name: (batch, frames, ...).

    Raises:
        DataError: the sequences do not fit.
    """
    count = None
    for port in plan.inputs:
        if port.name not in sequences:
            raise DataError(f"Expected sequences for {[one.name for one in plan.inputs]}. Received {list(sequences)}.")
        value = np.asarray(sequences[port.name])
        if port.axis is None or port.frames is None:
            if value.shape[1:] != port.shape:
                raise DataError(f"Input {port.name!r} takes {(None, *port.shape)}. Received {value.shape}.")
            continue
        wanted = [*port.shape]
        if value.ndim == len(wanted) + 1:
            wanted[port.axis - 1] = value.shape[port.axis]
        if list(value.shape[1:]) != wanted:
            shape = ", ".join("frames" if i + 1 == port.axis else str(n) for i, n in enumerate(port.shape))
            raise DataError(f"Input {port.name!r} takes sequences of shape (batch, {shape}). Received {value.shape}.")
        calls = value.shape[port.axis] // port.frames
        if not calls:
            raise DataError(
                f"Input {port.name!r} takes {port.frames} frames a call. Received {value.shape[port.axis]}."
            )
        count = calls if count is None else min(count, calls)
    for n in range(count or 0):
        yield {port.name: _part(np.asarray(sequences[port.name]), port, n) for port in plan.inputs}


def _part(value: np.ndarray, port, n: int) -> np.ndarray:
    if port.axis is None:
        return value
    return value[(slice(None),) * port.axis + (slice(n * port.frames, (n + 1) * port.frames),)]


def over_sequences(stream: Stream, sequences: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The right outputs over whole sequences from their start, by name: (batch, frames, ...), or (batch, calls, ...)
    where an output has no frames; its frame k is frame k of the whole-sequence model."""
    stream.reset()
    made: dict[str, list[np.ndarray]] = {out.name: [] for out in stream.plan.outputs}
    for given in calls_of(stream.plan, sequences):
        for name, value in stream.advance(given).items():
            made[name].append(np.asarray(value))
    found = {}
    for out in stream.plan.outputs:
        axis = 1 if out.axis is None else out.axis
        join = np.stack if out.axis is None else np.concatenate
        whole = join(made[out.name], axis=axis)
        found[out.name] = whole[(slice(None),) * axis + (slice(out.skip, None),)]
    return found
