"""Comparing two sets of predictions: agreement of values, and scores against labels, summed batch by batch."""

import dataclasses
import math

import numpy as np

from tfstruct.errors import DataError


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How one output of the file follows the Keras model's.

    Attributes:
        name: the output.
        max_abs_error, mean_abs_error: of the file's values against Keras's.
        sqnr_db: 10 log10(sum k^2 / sum (k - t)^2), in dB; infinite where they are equal.
        cosine: of all values as one vector.
        top1_agreement: share of samples (positions) with the same argmax; None for a single unit.
    """

    name: str
    max_abs_error: float
    mean_abs_error: float
    sqnr_db: float
    cosine: float
    top1_agreement: float | None


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
    """Sums over all values of one output, enough for every figure of `Agreement`."""

    def __init__(self):
        self.count = self.places = self.same = 0
        self.largest = self.absolute = self.squared = self.kk = self.tt = self.kt = 0.0
        self.has_classes = False

    def add(self, keras_values: np.ndarray, tflite_values: np.ndarray) -> None:
        k, t = keras_values.astype(np.float64), np.asarray(tflite_values).astype(np.float64)
        if k.shape != t.shape:
            raise DataError(f"The outputs differ in shape: Keras {k.shape}, TFLite {t.shape}.")
        error = np.abs(k - t)
        self.count += k.size
        self.largest = float(np.maximum(self.largest, error.max(initial=0.0)))  # unlike max, it keeps NaN
        self.absolute += float(error.sum())
        self.squared += float(np.square(error).sum())
        self.kk, self.tt, self.kt = (
            self.kk + float((k * k).sum()),
            self.tt + float((t * t).sum()),
            self.kt + float((k * t).sum()),
        )
        self.has_classes = k.ndim > 1 and k.shape[-1] > 1
        if self.has_classes:
            same = k.argmax(-1) == t.argmax(-1)
            self.same, self.places = self.same + int(same.sum()), self.places + same.size

    def agreement(self, name: str) -> Agreement:
        norm = math.sqrt(self.kk) * math.sqrt(self.tt)
        return Agreement(
            name,
            self.largest,
            self.absolute / max(self.count, 1),
            decibel(self.kk, self.squared),
            self.kt / norm if norm else float(self.kk == self.tt),
            self.same / self.places if self.has_classes else None,
        )


class ScoreCount:
    """A confusion count for classes, an error sum for regressions; the same for Keras and TFLite."""

    def __init__(self):
        self.pairs: dict[tuple[int, int], int] = {}
        self.error, self.values = 0.0, 0
        self.regression = False

    def add(self, labels: np.ndarray, outputs: np.ndarray) -> None:
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
        predicted = (outputs[..., 0] > 0.5).astype(int) if one else outputs.argmax(-1)
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
