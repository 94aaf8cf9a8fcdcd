"""`StreamingFile`: a streaming `.tflite` file run call by call, its states handed on as they are stored."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfstruct.convert import stream_states
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.verification import read_content
from tfstruct.errors import ConversionError
from tfstruct.streaming import Stream
from tfstruct.streaming.running import over_sequences


class StreamingFile:
    """A file of `to_tflite(to_streaming(model), ...)`, which says itself how it is run.

    Args:
        tflite: a path, the bytes, or a `TFLiteModel`.

    Attributes:
        plan: its `StreamPlan`.
        state_bytes: of one stream.

    Raises:
        ConversionError: no such file.

    Example:
        >>> sound = keras.Input((None, 4), name="sound")
        >>> heard = keras.layers.Conv1D(2, 3, padding="causal", name="heard")(sound)
        >>> lite = tfstruct.to_tflite(tfstruct.to_streaming(keras.Model(sound, heard)))
        >>> file = tfstruct.convert.StreamingFile(lite)
        >>> file.run(np.zeros((1, 20, 4), "float32")).shape, file.state_bytes
        ((1, 20, 2), 32)
    """

    def __init__(self, tflite: Any):
        content = read_content(tflite)
        plan = stream_states.plan_of(content)
        if plan is None:
            name = os.fspath(tflite) if isinstance(tflite, str | os.PathLike) else "the file"
            raise ConversionError(
                f"Expected a streaming .tflite file, of to_tflite(to_streaming(model)). {name} does not say how it is "
                "run."
            )
        self.plan = plan
        self.state_bytes = stream_states.state_bytes(content, plan)
        self._runtime = _States(content)
        self._batch = self._runtime.batch or 1

    def start(self) -> Stream:
        """A stream at its start: floats in, floats out. Streams of one file do not disturb each other."""
        names = {state.input for state in self.plan.states}
        after = {state.output for state in self.plan.states}

        def step(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            return self._runtime.advance(given, names, after)

        return Stream(self.plan, step, lambda batch: self._runtime.zeros(names, batch))

    def run(self, sequences) -> Any:
        """What the file gives over whole sequences, from their start; see `Streaming.run`."""
        given = {name: np.asarray(value) for name, value in self.plan.by_name(sequences).items()}
        count, size = len(next(iter(given.values()))), self._batch
        parts = []
        for start in range(0, count, size):
            part = {name: value[start : start + size] for name, value in given.items()}
            short = size - len(next(iter(part.values())))
            if short:
                part = {name: np.concatenate([v, np.repeat(v[-1:], short, 0)]) for name, v in part.items()}
            found = over_sequences(self.start(), part)
            parts.append({name: value[: size - short] for name, value in found.items()})
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return self.plan.handed_out(found)


class _States(Runtime):
    """A runtime that takes and gives states as they are stored."""

    def zeros(self, names, batch: int) -> dict[str, np.ndarray]:
        """Zero, in the integers of each state."""
        made = {}
        for port in self.inputs:
            if port.name in names:
                made[port.name] = port.encode(np.zeros((batch, *(n or 1 for n in port.shape[1:])), np.float32))
        return made

    def advance(self, given: Mapping[str, np.ndarray], states, after) -> dict[str, np.ndarray]:
        """One call."""
        self._resize(given)
        for port in self.inputs:
            value = given[port.name]
            self._interpreter.set_tensor(port.index, value if port.name in states else port.encode(value))
        self._invoke()
        found = {port.name: self._interpreter.get_tensor(port.index) for port in self.outputs}
        return {
            port.name: found[port.name] if port.name in after else port.decode(found[port.name])
            for port in self.outputs
        }
