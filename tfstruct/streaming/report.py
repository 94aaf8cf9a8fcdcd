"""What `to_streaming` hands back."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfstruct import reporting
from tfstruct.reporting import Result, Sheet
from tfstruct.reporting.tables import counted, named
from tfstruct.reporting.tables import shape as sizes
from tfstruct.streaming.plan import StreamPlan
from tfstruct.streaming.running import Stream, over_sequences


@dataclasses.dataclass(frozen=True)
class StreamingReport(reporting.OpenedReport):
    """How a streaming model is run, and how far it was found to be from the model of whole sequences.

    Attributes:
        name: of the model.
        plan: what goes in and out in a call, the states, and by how much outputs are late.
        window: frames of the longest input that the model of whole sequences looks at; None where that is open.
        difference: the largest one between the two on random frames, as a share of the largest magnitude of an output;
            None where they were not compared.
        compared: on what they were, or why they were not.
        remarks: (what is so, layers that it is so for).
    """

    name: str
    plan: StreamPlan
    window: int | None
    difference: float | None
    compared: str
    remarks: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def sheet(self) -> Sheet:
        plan = self.plan
        facts = [*plan.facts(plan.state_bytes), ("difference from whole sequences", self._difference())]
        rows = [(s.input, s.output, sizes(s.shape), s.dtype, s.holds) for s in plan.states]
        notes = [f"{what}: {named(paths, 8)}" for what, paths in self.remarks]
        title = f"{self.name}, {counted(plan.hop, 'frame')} a call"
        return Sheet(title, ("state", "next", "shape", "type", "holds"), rows, facts=facts, notes=notes)

    def _difference(self) -> str:
        if self.difference is None:
            return self.compared
        return f"{f'{self.difference:.1e}' if self.difference else 'none'}, {self.compared}"


@dataclasses.dataclass(frozen=True)
class Streaming(Result):
    """A streaming model, its report, and what runs it; `tfstruct.to_tflite` takes it as it takes a model.

    Attributes:
        model: a functional `keras.Model` of one call: dicts of inputs and states by name, to dicts of outputs and new
            states.
        report: a `StreamingReport`; `plan`, `difference` and the like can be read here too.
    """

    report: StreamingReport
    whole_outputs: Callable[[Sequence[np.ndarray]], dict[str, np.ndarray]] = dataclasses.field(repr=False)

    def start(self) -> Stream:
        """A stream at its start, in float; see `Stream`.

        Example:
            >>> sound = keras.Input((None, 4), name="sound")
            >>> heard = keras.layers.Conv1D(2, 3, padding="causal", name="heard")(sound)
            >>> stream = tfstruct.to_streaming(keras.Model(sound, heard)).start()
            >>> stream(np.zeros((1, 1, 4))).shape
            (1, 1, 2)
        """
        import tensorflow as tf

        call = tf.function(lambda given: self.model(given, training=False), autograph=False, reduce_retracing=True)

        def step(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            return {name: value.numpy() for name, value in call({k: tf.constant(v) for k, v in given.items()}).items()}

        return Stream(self.plan, step, self.plan.zeros)

    def run(self, sequences) -> Any:
        """What streams give over whole sequences, from their start.

        Args:
            sequences: (batch, frames, ...), or by name of the input where there are several; frames beyond the last
                whole hop are left out.

        Returns:
            The right outputs, as the model of whole sequences numbers them: (batch, frames, ...), or (batch, hops, ...)
            of what each call makes anew; by name where there are several.

        Raises:
            DataError: sequences that do not fit.
        """
        found = over_sequences(self.start(), self.plan.by_name(sequences))
        return self.plan.handed_out(found)

    def whole(self, sequence) -> Any:
        """What the original model gives of one whole sequence of any length, its layers run on all frames at once: what
        `run` has to be equal to.

        Args:
            sequence: (1, frames, ...), or by name.

        Returns:
            As `run`.
        """
        given = self.plan.by_name(sequence)
        found = self.whole_outputs([np.asarray(given[x.name]) for x in self.plan.inputs])
        return self.plan.handed_out(found)
