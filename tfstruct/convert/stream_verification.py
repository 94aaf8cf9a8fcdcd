"""Does a streaming file do what its Keras model does? Runs both over sequences, each with its own states."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.agreement import AgreementSum, ScoreCount
from tfstruct.convert.input_coverage import CoverageCount
from tfstruct.convert.port_ranges import port_ranges
from tfstruct.convert.recipe_data import RANDOM
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.stream_file import StreamingFile
from tfstruct.convert.verification import Verification
from tfstruct.errors import DataError
from tfstruct.samples import Sample, TensorSpec
from tfstruct.streaming import Streaming, StreamPlan

_BATCH = 64


def compare_streams(
    streaming: Streaming,
    content: bytes,
    samples: Iterable[Sample],
    source: str,
    progress: Callable[[int], None] = lambda done: None,
) -> Verification:
    """Compares all right outputs. A label is that of a sequence, held against its last output.

    Raises:
        DataError: the sequences are too short for a right output.
    """
    plan, file = streaming.plan, StreamingFile(content)
    at_inputs, at_outputs = port_ranges(flatbuffer.read(content), Runtime(content))
    totals = {out.name: AgreementSum(at_outputs.get(out.name)) for out in plan.outputs}
    coverage = {x.name: CoverageCount(at_inputs[x.name]) for x in plan.inputs if x.name in at_inputs}
    scores = (ScoreCount(), ScoreCount())
    done = 0
    for batch in alike(samples):
        given = stacked(batch)
        truth, ours = (_by_time(runs.run(given), plan) for runs in (streaming, file))
        for name, total in totals.items():
            if not truth[name].size:
                wait = next(out.wait for out in plan.outputs if out.name == name)
                raise DataError(f"{source}: expected sequences of {wait} frames or more, where {name!r} gets right.")
            total.add(*(side[name].reshape(-1, *side[name].shape[2:]) for side in (truth, ours)))
        for name, seen in coverage.items():
            seen.add(given[name])
        if batch[0].label is not None and len(totals) == 1:
            (name,) = totals
            labels = np.stack([np.asarray(s.label) for s in batch])
            for count, side in zip(scores, (truth, ours), strict=True):
                count.add(labels, side[name][:, -1])
        done += len(batch)
        progress(done)
    return Verification(
        source,
        done,
        tuple(total.agreement(name) for name, total in totals.items()),
        scores[0].scores(),
        scores[1].scores(),
        inputs=tuple(seen.coverage(name) for name, seen in coverage.items() if seen.count),
        random=source == RANDOM,
        quantized=bool(at_inputs or at_outputs),
    )


def sequence_specs(plan: StreamPlan, frames: int | None = None) -> tuple[TensorSpec, ...]:
    """Whole sequences, by input; of so many frames of the longest one, or any."""
    specs = []
    for x in plan.inputs:
        shape: list[int | None] = [*x.shape]
        if x.axis is not None and x.frames is not None:
            shape[x.axis - 1] = None if frames is None else frames * x.frames // plan.hop
        specs.append(TensorSpec(x.name, tuple(shape), x.dtype))
    return tuple(specs)


def stacked(batch: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Sequences of equal shapes by input, the batch first."""
    return {name: np.stack([s.inputs[name] for s in batch]) for name in batch[0].inputs}


def alike(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Batches of sequences of equal shapes."""
    batch: list[Sample] = []
    for sample in samples:
        other = batch and any(sample.inputs[k].shape != v.shape for k, v in batch[0].inputs.items())
        if other or len(batch) == _BATCH:
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _by_time(made, plan: StreamPlan) -> dict[str, np.ndarray]:
    """Outputs by name, their frames or calls behind the batch."""
    found = made if isinstance(made, Mapping) else {plan.outputs[0].name: made}
    return {out.name: np.moveaxis(found[out.name], 1 if out.axis is None else out.axis, 1) for out in plan.outputs}
