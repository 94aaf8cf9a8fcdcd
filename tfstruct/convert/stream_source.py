"""A streaming model as the source of a conversion: its data are whole sequences, its samples the calls of these."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfstruct.convert import stream_precision, stream_states
from tfstruct.convert.converter import ConverterProcess
from tfstruct.convert.export import Signature
from tfstruct.convert.keras_source import KerasSource
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.recipe_data import RANDOM, random_samples
from tfstruct.convert.source import FloatFile, Ranges, Stage
from tfstruct.convert.stream_verification import alike, compare_streams, sequence_specs, stacked
from tfstruct.convert.verification import Verification
from tfstruct.errors import ConversionError, DataError, RecipeError
from tfstruct.samples import Preprocess, Sample, open_samples
from tfstruct.streaming import Streaming
from tfstruct.streaming.running import calls_of
from tfstruct.streaming.windows import CUMULATES

_KEPT = 256  # sequences for verification, where none are given for it
_OF_DATA = ("calibration", "verification", "labels", "samples", "preprocess", "input_type", "output_type")
_RANDOM_CALLS = 32
_CALLS = 8  # used for each sample that a recipe allows: one takes no longer than a frame


class StreamingSource(KerasSource):
    """See `source.Source`. Calibration and verification data are whole sequences of any length; short ones are joined
    end to end. The samples of the file are their calls, with the states that the Keras model has in these."""

    def __init__(self, streaming: Streaming, process: ConverterProcess, stage: Stage):
        super().__init__(streaming.model, process, stage)
        self._streaming, self.plan = streaming, streaming.plan
        self._ends: dict[str, tuple[float, float]] = {}
        self._sequences: tuple[list[Sample], str] = ([], "")
        self._given: dict[str, object] = {}
        self._wide: tuple[str, ...] = ()
        self._refused: tuple[str, ...] = ()
        self._named: Mapping[str, str] = {}  # layers, in the recipe that was given
        self._tensors_of_16_bits: set[str] = set()

    @contextlib.contextmanager
    def completed(self, recipe: Recipe) -> Iterator[Recipe]:
        """Yields the recipe with the calls of its sequences in place of these."""
        cumulates = [paths for what, paths in self._streaming.report.remarks if what == CUMULATES]
        if cumulates and recipe.quantizes_activations and set(recipe.layers.values()) <= {recipe.precision}:
            raise RecipeError(
                f"`{cumulates[0][0]}` {CUMULATES}: give to_streaming(..., window=N), the frames that it shall look at, "
                "or use a precision without integer activations."
            )
        self._given = {name: recipe.described()[name] for name in _OF_DATA}
        self._named, self._refused = recipe.layers, ()
        recipe, self._wide = stream_precision.with_wide_recurrence(recipe, self._streaming.model)
        with super().completed(recipe) as whole:
            yield self._stepwise(whole)

    def instead(self, recipe: Recipe, error: ConversionError) -> Recipe:
        """With recurrent layers in 8 bits, where a cell has operators that have none of 16."""
        if not self._wide:
            raise error
        given = recipe.replace(layers=self._named)
        recipe, self._wide = stream_precision.with_wide_recurrence(given, self._streaming.model, widens=False)
        self._refused = (f"recurrent layers in {recipe.precision}, as 16 bits failed: {error}",)
        return recipe

    def described(self, recipe: Recipe) -> dict:
        return {**super().described(recipe), **self._given}

    def sequences(self) -> tuple[list[Sample], str] | None:
        return self._sequences

    def tied(self, content: bytes, ranges: Ranges) -> Ranges:
        for name, (low, high) in self._ends.items():
            if name in ranges:
                ranges = {**ranges, name: (min(low, ranges[name][0]), max(high, ranges[name][1]))}
        return stream_states.tied(content, ranges, self.plan.states, self._tensors_of_16_bits)

    def float_file(self, recipe: Recipe) -> FloatFile:
        found = super().float_file(recipe)
        self._tensors_of_16_bits = stream_precision.tensors_of_16_bits(found, recipe)
        return dataclasses.replace(found, rewrites=(*found.rewrites, *self._wide, *self._refused))

    def finished(self, content: bytes) -> bytes:
        content = stream_precision.states_as_computed(content, self.plan)
        stream_states.check(content, self.plan)
        return stream_states.with_plan(content, self.plan)

    def facts(self, content: bytes) -> dict[str, Any]:
        return {"streaming": self.plan, "state_bytes": stream_states.state_bytes(content, self.plan)}

    def compare(
        self,
        signature: Signature,
        content: bytes,
        samples: Sequence[Sample],
        source: str,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Verification:
        return compare_streams(self._streaming, content, samples, source, progress)

    def _stepwise(self, recipe: Recipe) -> Recipe:
        own = {x.name for x in self.plan.inputs}, {x.name for x in self.plan.outputs}
        types = [
            dict.fromkeys(names, given) if isinstance(given, str) else given
            for names, given in zip(own, (recipe.input_type, recipe.output_type), strict=True)
        ]
        recipe = recipe.replace(input_type=types[0], output_type=types[1])
        calibration = verification = None
        joined = 1
        if recipe.calibration is not None:
            calibration, joined = self._read(recipe, recipe.calibration, recipe.samples)
            source = f"the first {min(len(calibration), _KEPT)} calibration sequences"
            verification = calibration[:_KEPT]
        if recipe.verification is not None:
            verification, joined = self._read(recipe, recipe.verification, None)
            source = str(recipe.described()["verification"])
        if verification is None:
            signature = Signature(sequence_specs(self.plan, self._frames_of_random()), None, lambda x: {})
            verification, source = random_samples(signature, 4, ranges=recipe.ranges), RANDOM
        if joined > 1:
            source += f", {joined} joined end to end as one, without labels: one is shorter than {self._wait} frames"
        self._sequences = verification, source
        changes: dict = {"verification": None, "labels": None, "preprocess": Preprocess()}
        if calibration is not None:
            count = _CALLS * recipe.samples
            changes.update(calibration=self._calls(calibration, count), labels=False, samples=count)
        return recipe.replace(**changes)

    @property
    def _wait(self) -> int:
        return max(out.wait for out in self.plan.outputs)

    def _frames_of_random(self) -> int:
        return -(-self._wait // self.plan.hop) * self.plan.hop + _RANDOM_CALLS * self.plan.hop

    def _read(self, recipe: Recipe, source, limit: int | None) -> tuple[list[Sample], int]:
        """Sequences, and how many were joined to one."""
        data = open_samples(
            source, sequence_specs(self.plan), labels=recipe.labels, preprocess=recipe.preprocess, limit=limit
        )
        samples = list(data)
        if not samples:
            raise DataError(f"{data.source} holds no sequences. Expected at least one.")
        timed = [x for x in self.plan.inputs if x.axis is not None]
        frames = min(s.inputs[x.name].shape[x.axis - 1] * self.plan.hop // x.frames for s in samples for x in timed)
        if frames >= self._wait:
            return samples, 1
        together = -(-(self._wait + frames) // max(frames, 1))
        if len(timed) < len(self.plan.inputs) or len(samples) < together:
            raise DataError(
                f"{data.source} holds sequences of {frames} frames. The first right output comes after {self._wait}: "
                "expected longer ones, or more of them, which are joined end to end."
            )
        groups = [samples[i : i + together] for i in range(0, len(samples) - together + 1, together)]
        return [
            Sample({x.name: np.concatenate([s.inputs[x.name] for s in group], x.axis - 1) for x in timed}, None)
            for group in groups
        ], together

    def _calls(self, sequences: Sequence[Sample], count: int) -> dict[str, np.ndarray]:
        """Some of their calls, drawn at random, by input and state; the ranges of all are noted."""
        batches = list(alike(sequences))
        lengths = [len(list(calls_of(self.plan, stacked(batch[:1])))) for batch in batches]
        total = sum(n * len(batch) for n, batch in zip(lengths, batches, strict=True))
        rng = np.random.default_rng(0)
        wanted = np.zeros(total, bool)
        wanted[rng.choice(total, min(count, total), replace=False)] = True
        wanted[0] = True
        self._ends = {}
        found: dict[str, list[np.ndarray]] = {}
        at = 0
        for batch in batches:
            stream = self._streaming.start()
            for given in calls_of(self.plan, stacked(batch)):
                states = stream.states or self.plan.zeros(len(batch))
                chosen = wanted[at : at + len(batch)]
                for name, value in {**given, **states}.items():
                    low, high = self._ends.get(name, (0.0, 0.0))
                    self._ends[name] = min(low, float(value.min())), max(high, float(value.max()))
                    found.setdefault(name, []).append(np.asarray(value)[chosen])
                stream.advance(given)
                at += len(batch)
        return {name: np.concatenate(parts) for name, parts in found.items()}
