"""Does a `.tflite` file do what the Keras model does? Runs both on samples and compares."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np

from tfstruct.convert import doubts, flatbuffer
from tfstruct.convert.agreement import Agreement, AgreementSum, ScoreCount, Scores
from tfstruct.convert.input_coverage import CoverageCount, InputCoverage
from tfstruct.convert.layer_errors import LayerError
from tfstruct.convert.port_ranges import port_ranges
from tfstruct.convert.recipe import REQUIREMENTS
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ConversionError, DataError
from tfstruct.keras_internals.tensorflow import lacks_threads
from tfstruct.reporting import Report, Sheet
from tfstruct.reporting.tables import counted
from tfstruct.samples import Sample

BATCH = 64
# Bytes of all activations of a batch, which a Keras model holds until its call ends.
_MEMORY = 256 << 20
_FEW_CALLS = 3
_FEW = 10  # samples: fewer need not show all classes


@dataclasses.dataclass(frozen=True)
class Verification(Report):
    """What a comparison of file and Keras model found.

    Attributes:
        source: what it was compared on.
        samples: how many.
        outputs: one agreement an output.
        keras, tflite: scores of both where labels were given, from the same code.
        layers: errors by layer where asked for, or where the file falls short; the greatest loss first.
        inputs: the samples against the ranges of quantized inputs.
        random: True if the samples were drawn at random, for want of data.
        quantized: True if activations are integers.
    """

    source: str
    samples: int
    outputs: tuple[Agreement, ...]
    keras: Scores | None = None
    tflite: Scores | None = None
    layers: tuple[LayerError, ...] = ()
    inputs: tuple[InputCoverage, ...] = ()
    random: bool = False
    quantized: bool = False

    def sheet(self) -> Sheet:
        columns = (
            "output", ("max error", ".3g"), ("mean error", ".3g"), ("SQNR, dB", ".1f"), ("cosine", ".6f"),
            ("top-1 equal", ".2%"), ("integers equal", ".2%"),
        )  # fmt: skip
        rows = [
            (o.name, o.max_abs_error, o.mean_abs_error, o.sqnr_db, o.cosine, o.top1_agreement, o.equal)
            for o in self.outputs
        ]
        title = f"verified on {counted(self.samples, 'sample')}: {self.source}"
        facts = [
            (f"{name} of {whose}", f"{value:.4g}")
            for whose, scores in (("Keras", self.keras), ("the file", self.tflite))
            if scores is not None
            for name, value in dataclasses.asdict(scores).items()
            if value is not None
        ]
        return Sheet(title, columns, rows, facts=facts, notes=self.doubts())

    def doubts(self) -> list[str]:
        """A line for every reason not to trust the file, or these figures; each with what to do."""
        found = doubts.of_outputs(self.outputs, self.layers, shows_classes=self.samples >= _FEW and not self.random)
        found += doubts.of_scores(self.keras, self.tflite)
        return found + doubts.of_samples(self.inputs, self.random, self.quantized)

    @property
    def is_low(self) -> bool:
        """True if an output falls below what a file should reach: what `doubts` names first."""
        return any(doubts.low_figures(output) for output in self.outputs)

    def figures(self) -> dict[str, float]:
        """The figures that `Recipe.require` can bound: the worst over the outputs, NaN where one is NaN.

        Outputs of integers count with the share that is equal, as top-1; with SQNR and cosine only if all are such.
        """
        values = [o for o in self.outputs if o.equal is None] or self.outputs
        found = {
            "sqnr_db": float(np.min([o.sqnr_db for o in values])),
            "cosine": float(np.min([o.cosine for o in values])),
            "max_abs_error": float(np.max([o.max_abs_error for o in self.outputs])),
            "mean_abs_error": float(np.max([o.mean_abs_error for o in self.outputs])),
        }
        top1 = [o.equal if o.top1_agreement is None else o.top1_agreement for o in self.outputs]
        shares = [share for share in top1 if share is not None]
        if shares:
            found["top1_agreement"] = min(shares)
        columns = [o.channel_sqnr_db for o in self.outputs if o.channel_sqnr_db is not None]
        if columns:
            found["channel_sqnr_db"] = float(np.min(columns))
        if self.tflite is not None and self.tflite.accuracy is not None:
            found["accuracy"] = self.tflite.accuracy
        return found

    def shortfalls(self, require: Mapping[str, float]) -> list[str]:
        """A line for every threshold that is missed, or that there is no figure for."""
        figures, lines = self.figures(), []
        for name, bound in require.items():
            side = REQUIREMENTS[name]
            if name not in figures:
                needs = {"accuracy": "labels are needed", "channel_sqnr_db": "no output has several channels"}
                why = needs.get(name, "no output has several classes")
                lines.append(f"{name} {side} {bound:g} was asked for, but cannot be measured: {why}")
            elif not (figures[name] >= bound if side == "at least" else figures[name] <= bound):
                lines.append(f"{name} is {figures[name]:.6g}, expected {side} {bound:g}")
        return lines


def read_content(tflite) -> bytes:
    """The bytes of a file given as a model, as bytes or as a path.

    Raises:
        ConversionError: something else, or a path that cannot be read.
    """
    if isinstance(tflite, str | os.PathLike):
        if os.path.exists(os.path.join(tflite, "saved_model.pb")):
            raise ConversionError(
                f"Expected a .tflite file. Received the SavedModel {os.fspath(tflite)!r}: load it first, "
                "tfstruct.legacy.load(path)."
            )
        try:
            with open(tflite, "rb") as file:
                return file.read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConversionError(f"Cannot read {os.fspath(tflite)!r}: {reason}. Expected a .tflite file.") from None
    content = getattr(tflite, "content", tflite)
    if not isinstance(content, bytes | bytearray | memoryview):
        raise ConversionError(
            f"Expected a TFLiteModel, the bytes of a .tflite file, or its path. Received: {type(tflite).__name__}."
        )
    return bytes(content)


def compare(
    signature,
    content: bytes,
    samples: Iterable[Sample],
    source: str,
    progress: Callable[[int], None] = lambda done: None,
) -> Verification:
    """Runs both models over the samples in batches and adds up; memory does not grow with their number."""
    import tensorflow as tf

    runtime, parsed = Runtime(content), flatbuffer.read(content)
    at_inputs, at_outputs = port_ranges(parsed, runtime)
    coverage = {name: CoverageCount(border) for name, border in at_inputs.items()}
    # A Keras model has the values before and behind a batch norm and an activation apart: one tensor of the file.
    each = 3 * 4 * flatbuffer.values_made(parsed) // (signature.batch or 1)
    size = max(1, min(BATCH, _MEMORY // max(1, each)))
    # Tracing a large model takes as long as a few calls step by step. Without threads, what is traced never ends.
    few = isinstance(samples, Sized) and len(samples) <= _FEW_CALLS * size
    few = few or lacks_threads() or not signature.traceable
    # For a last batch of another size it would be traced anew. Where sizes are open, each shape is a batch of its own.
    fills = not few and not any(None in spec.shape for spec in signature.inputs)
    fixed = signature.batch
    # Behind a partial, TensorFlow does not take the functions of several models for one that is traced too often.
    call = (
        signature.call
        if few
        else tf.function(functools.partial(signature.call), autograph=False, reduce_retracing=True)
    )
    totals: dict[str, AgreementSum] = {}
    scores = (ScoreCount(), ScoreCount())
    done = 0
    for batch in _batches(samples, size):
        inputs = {name: np.stack([s.inputs[name] for s in batch]) for name in batch[0].inputs}
        if fills and fixed is None:
            fixed = len(batch)
        truth = {k: np.asarray(v) for k, v in _call_in_batches(call, inputs, fixed).items()}
        ours = runtime.run_all(inputs)
        for name, value in truth.items():
            totals.setdefault(name, AgreementSum(at_outputs.get(name))).add(value, ours[name])
        for name, seen in coverage.items():
            seen.add(inputs[name])
        if batch[0].label is not None:
            for name, labels in _labels_of(batch, list(truth)):
                whole = truth[name].dtype.kind in "iub"
                for count, outputs in zip(scores, (truth, ours), strict=True):
                    count.add(labels, outputs[name].astype(truth[name].dtype) if whole else outputs[name])
        done += len(batch)
        progress(done)
    if not done:
        raise DataError(f"{source} holds no samples to verify on. Expected at least one.")
    keras_scores, tflite_scores = (count.scores() for count in scores)
    return Verification(
        source,
        done,
        tuple(t.agreement(name) for name, t in totals.items()),
        keras_scores,
        tflite_scores,
        inputs=tuple(seen.coverage(name) for name, seen in coverage.items() if seen.count),
        quantized=bool(at_inputs or at_outputs),
    )


def _labels_of(batch: Sequence[Sample], outputs: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    first: Any = batch[0].label
    if isinstance(first, Mapping):
        for name in first:
            if name not in outputs:
                raise DataError(f"Labels are given for {name!r}. The model's outputs are {outputs}.")
            yield name, np.stack([np.asarray(s.label[name]) for s in batch])
    elif len(outputs) > 1:
        raise DataError(f"The model has the outputs {outputs}. Expected labels as a dict by output name.")
    else:
        yield outputs[0], np.stack([np.asarray(s.label) for s in batch])


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Lists of up to `size` samples of equal shapes: open dimensions may change from sample to sample."""
    batch: list[Sample] = []
    for sample in samples:
        if batch and any(sample.inputs[k].shape != v.shape for k, v in batch[0].inputs.items()):
            yield batch
            batch = []
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _call_in_batches(call, inputs: Mapping[str, np.ndarray], size: int | None) -> dict[str, np.ndarray]:
    """Calls a model whose batch size may be fixed; the last batch is filled up and cut again."""
    if size is None:
        return call(dict(inputs))
    count = len(next(iter(inputs.values())))
    filled = {k: np.concatenate([v, np.repeat(v[-1:], -count % size, axis=0)]) for k, v in inputs.items()}
    batches = [call({k: v[i : i + size] for k, v in filled.items()}) for i in range(0, count, size)]
    return {name: np.concatenate([np.asarray(one[name]) for one in batches])[:count] for name in batches[0]}
