"""Comparing two sets of predictions: agreement of values, and scores against labels, summed batch by batch."""

import dataclasses
import math

import numpy as np

from tfstruct.convert.lost_columns import ColumnSums, LostColumns
from tfstruct.convert.port_ranges import PortRange
from tfstruct.errors import DataError

# Sums of a row of probabilities may be off by this much: a file rounds each of them.
_ROUNDED = 0.05


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How one output of the file follows the Keras model's.

    Attributes:
        name: the output.
        max_abs_error, mean_abs_error: of the file's values against Keras's.
        sqnr_db: 10 log10(sum k^2 / sum (k - t)^2), in dB; infinite where they are equal.
        cosine: of all values as one vector.
        top1_agreement: share of samples (positions) with the same argmax; None for a single unit.
        channel_sqnr_db: SQNR of the worst column of the last axis; None where there is one only.
        columns: columns of the last axis, and of the first of two (boxes, say, in a tensor of shape (attributes,
            boxes)), that are lost in the error of the whole.
        clipped: share of Keras's values that lie outside of the file's range by more than a step.
        infinite: shares of values that are NaN or infinite, in Keras and in the file.
        varies: False if Keras gives every sample the same.
        constant: True if it varies in Keras and is one value in the file.
        classes: number of classes that Keras predicts; None for a single unit.
        distribution: True if the last axis holds probabilities that add up to 1.
        equal: of integers (classes, ids, truth values): the share that is the same, which is what counts for them;
            None for other values.
    """

    name: str
    max_abs_error: float
    mean_abs_error: float
    sqnr_db: float
    cosine: float
    top1_agreement: float | None
    channel_sqnr_db: float | None = None
    columns: tuple[LostColumns, ...] = ()
    clipped: float = 0.0
    infinite: tuple[float, float] = (0.0, 0.0)
    varies: bool = True
    constant: bool = False
    classes: int | None = None
    distribution: bool = False
    equal: float | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
    """Predictions against labels.

    Attributes:
        accuracy: share of right classes; None for a regression.
        recall, precision: mean over the classes that occur (macro average).
        mean_abs_error: against the labels, for a regression; None otherwise.
    """

    accuracy: float | None = None
    recall: float | None = None
    precision: float | None = None
    mean_abs_error: float | None = None


class AgreementSum:
    """Sums over all values of one output, enough for every figure of `Agreement`.

    Args:
        port_range: the integers behind the output; None where it is computed in float.
    """

    def __init__(self, port_range: PortRange | None = None):
        self.port_range = port_range
        self.count = self.places = self.same = self.clipped = self.bad = self.file_bad = self.samples = 0
        self.largest = self.absolute = self.squared = self.kk = self.tt = self.kt = 0.0
        self.has_classes = self.varies = self.file_varies = False
        self.whole, self.equal = True, 0
        self.distribution = True
        self.first: tuple[np.ndarray, np.ndarray] | None = None
        self.classes = np.zeros(0, bool)
        self.columns: tuple[ColumnSums, ...] = ()

    def add(self, keras_values: np.ndarray, tflite_values: np.ndarray) -> None:
        self.whole &= np.asarray(keras_values).dtype.kind in "iub"
        k, t = keras_values.astype(np.float64), np.asarray(tflite_values).astype(np.float64)
        if k.shape != t.shape:
            raise DataError(
                f"The outputs differ in shape: Keras {k.shape}, TFLite {t.shape}. Where an output compares the samples "
                "of a batch with one another, convert the parts of the model in front of it, each of which computes "
                "one sample at a time."
            )
        if not k.size:
            return
        with np.errstate(invalid="ignore", over="ignore"):
            self._values(k, t)
            self._columns(k, t)

    def _values(self, k: np.ndarray, t: np.ndarray) -> None:
        error = np.abs(k - t)
        self.count += k.size
        self.equal += int((k == t).sum())
        self.largest = float(np.maximum(self.largest, error.max(initial=0.0)))  # unlike max, it keeps NaN
        self.absolute += float(error.sum())
        self.squared += float(np.square(error).sum())
        self.kk, self.tt, self.kt = (
            self.kk + float((k * k).sum()),
            self.tt + float((t * t).sum()),
            self.kt + float((k * t).sum()),
        )
        self.bad += int((~np.isfinite(k)).sum())
        self.file_bad += int((~np.isfinite(t)).sum())
        if self.port_range is not None:
            self.clipped += int(self.port_range.beyond(k).sum())

    def _columns(self, k: np.ndarray, t: np.ndarray) -> None:
        self.samples += len(k) if k.ndim else 1
        if self.first is None:
            self.first = (k[:1].copy(), t[:1].copy())
            self.columns = tuple(ColumnSums(axis) for axis in _axes_of_columns(k.ndim) if not self.whole)
        self.varies |= _differs(k, self.first[0])
        self.file_varies |= _differs(t, self.first[1])
        for sums in self.columns:
            sums.add(k, t)
        self.has_classes = k.ndim > 1 and k.shape[-1] > 1 and not self.whole
        adds_up = self.has_classes and k.min() >= 0 and (np.abs(k.sum(-1) - 1) < _ROUNDED).all()
        self.distribution = bool(self.distribution and adds_up)
        if self.has_classes:
            top = k.argmax(-1)
            same = top == t.argmax(-1)
            self.same, self.places = self.same + int(same.sum()), self.places + same.size
            self.classes = np.pad(self.classes, (0, max(0, k.shape[-1] - len(self.classes))))
            self.classes[np.unique(top)] = True

    def agreement(self, name: str) -> Agreement:
        norm = math.sqrt(self.kk) * math.sqrt(self.tt)
        whole = decibel(self.kk, self.squared)
        probabilities = self.distribution or (self.port_range is not None and self.port_range.probability)
        # One step of a probability is no loss, however rare the class.
        tolerance = 1 / 256 if probabilities else 0.0
        lost = [sums.lost(self.count, whole, tolerance) for sums in self.columns] if math.isfinite(whole) else []
        return Agreement(
            name,
            self.largest,
            self.absolute / max(self.count, 1),
            whole,
            self.kt / norm if norm else float(self.kk == self.tt),
            self.same / self.places if self.has_classes else None,
            self.columns[0].worst_db() if self.columns else None,
            tuple(found for found in lost if found),
            self.clipped / max(self.count, 1),
            (self.bad / max(self.count, 1), self.file_bad / max(self.count, 1)),
            self.varies or self.samples < 2,
            self.varies and not self.file_varies,
            int(self.classes.sum()) if self.has_classes else None,
            self.distribution,
            self.equal / self.count if self.whole and self.count else None,
        )


def _axes_of_columns(rank: int) -> tuple[int, ...]:
    """The last axis, and the first where there are two besides the batch."""
    return {0: (), 1: (), 3: (-1, 1)}.get(rank, (-1,))


def _differs(values: np.ndarray, first: np.ndarray) -> bool:
    """True if a sample is another than the first, by more than the last bits of float32."""
    if values.shape[1:] != first.shape[1:]:
        return True
    finite = np.isfinite(values) & np.isfinite(first)
    size = np.abs(first)[np.isfinite(first)].max(initial=0.0)
    other = np.isnan(values) != np.isnan(first)
    return bool(
        (other | (finite & (np.abs(values - first) > 1e-6 * size)) | (np.isinf(values) & (values != first))).any()
    )


class ScoreCount:
    """A confusion count for classes, an error sum for regressions; the same for Keras and TFLite."""

    def __init__(self):
        self.pairs: dict[tuple[int, int], int] = {}
        self.error, self.values = 0.0, 0
        self.regression = False

    def add(self, labels: np.ndarray, outputs: np.ndarray) -> None:
        if outputs.dtype.kind in "iub" and labels.size == outputs.size and bool(np.all(labels == np.floor(labels))):
            self._count(labels.astype(np.int64), outputs.astype(np.int64))  # classes already
            return
        outputs = outputs[:, None] if outputs.ndim == 1 else outputs
        labels = labels[:, None] if labels.ndim == 1 and outputs.shape[1:] == (1,) else labels
        classes = class_labels(labels, outputs)
        fits = labels.shape == outputs.shape
        # A batch may hold 0 and 1 only by chance: the first label that is no class makes it a regression.
        self.regression |= classes is None
        if fits or classes is None:
            if not fits:
                raise DataError(
                    f"Labels of shape {labels.shape[1:]} do not fit an output of shape {outputs.shape[1:]}. "
                    "Expected one integer a sample, or the output's own shape."
                )
            self.error += float(np.abs(outputs.astype(np.float64) - labels).sum())
            self.values += labels.size
        if classes is None:
            return
        one = outputs.shape[-1] == 1
        self._count(classes, (outputs[..., 0] > 0.5).astype(int) if one else outputs.argmax(-1))

    def _count(self, classes: np.ndarray, predicted: np.ndarray) -> None:
        for pair in zip(classes.ravel().tolist(), predicted.ravel().tolist(), strict=True):
            self.pairs[pair] = self.pairs.get(pair, 0) + 1

    def scores(self) -> Scores | None:
        if self.regression:
            return Scores(mean_abs_error=self.error / self.values)
        if not self.pairs:
            return None
        total = sum(self.pairs.values())
        hits = {true: n for (true, guess), n in self.pairs.items() if true == guess}
        actual: dict[int, int] = {}
        guessed: dict[int, int] = {}
        for (true, guess), n in self.pairs.items():
            actual[true] = actual.get(true, 0) + n
            guessed[guess] = guessed.get(guess, 0) + n
        every = sorted(actual)
        return Scores(
            accuracy=sum(hits.values()) / total,
            recall=float(np.mean([hits.get(c, 0) / actual[c] for c in every])),
            # A class never predicted has precision 0, as scikit-learn counts it.
            precision=float(np.mean([hits.get(c, 0) / guessed[c] if c in guessed else 0.0 for c in every])),
        )


def class_labels(labels: np.ndarray, outputs: np.ndarray) -> np.ndarray | None:
    """Class numbers, or None where the labels are values to regress."""
    units = outputs.shape[-1]
    if labels.shape[1:] == outputs.shape[1:] and units > 1:
        one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all()
        return labels.argmax(-1) if one_hot else None
    whole = np.issubdtype(labels.dtype, np.integer) or (
        labels.dtype.kind in "fb" and bool(np.all(labels == np.floor(labels)))
    )
    if labels.ndim == outputs.ndim and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.shape != outputs.shape[:-1] or not whole:
        return None
    top = 2 if units == 1 else units
    if labels.min() < 0 or labels.max() >= top:
        if units == 1:
            return None
        raise DataError(
            f"Labels must be in [0, {top}), the number of classes. Received {labels.min()}..{labels.max()}."
        )
    return labels.astype(np.int64)


def decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    if math.isinf(noise):
        return -math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0 else -math.inf
