"""Mistakes of a file on the validation data: the confusion of classes, and the worst samples."""

import base64
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfstruct.convert.agreement import class_labels

_WORST = 12
_SIDE = 64  # pixels of a picture, at most
_POINTS = 128  # of a line, at most
_LINES = 3  # of a sample
_CLASSES = ("probabilities", "logits", "probability")

Pairs = tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True)
class WorstSample:
    """A sample that the file gets wrong.

    Attributes:
        index: its place in the validation data.
        expected, received: the class, or the values where there are few; else empty.
        weight: how sure the file is of the wrong class, in [0, 1]; or how large its error is.
        picture: of an image, a PNG in base64, at most 64 pixels a side; else empty.
        lines: of anything else, the values, at most 128 of each of at most three channels.
    """

    index: int
    expected: str
    received: str
    weight: float
    picture: str = ""
    lines: tuple[tuple[float, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """The predictions of the file on the validation data, compared with the truth.

    Attributes:
        samples: how many were looked at.
        truth: what is compared with: `"labels"`, or `"the original's outputs"` where no labels fit.
        weight: what `WorstSample.weight` is: `"confidence"`, or `"mean error"` (of several outputs in their standard
            deviations).
        classes: how many there are; 0 where the model does not classify, or has several outputs.
        original, result: of the original model and of the file (class, predicted class, how often), where it occurs.
        worst: the samples of the greatest weight, those first.
    """

    samples: int
    truth: str
    weight: str
    classes: int = 0
    original: Pairs = ()
    result: Pairs = ()
    worst: tuple[WorstSample, ...] = ()

    def recalls(self, pairs: Pairs) -> dict[int, float]:
        """Class -> the share of its samples that are recognized, of `original` or `result`."""
        found = {}
        for one in sorted({true for true, _, _ in pairs}):
            row = {predicted: count for true, predicted, count in pairs if true == one}
            found[one] = row.get(one, 0) / sum(row.values())
        return found

    @classmethod
    def from_dict(cls, data: Mapping) -> "Mistakes":
        pairs = {name: tuple(map(tuple, data[name])) for name in ("original", "result")}
        worst = (WorstSample(**{**one, "lines": tuple(map(tuple, one["lines"]))}) for one in data["worst"])
        return cls(**{**data, **pairs, "worst": tuple(worst)})


def find_mistakes(
    inputs: Sequence[np.ndarray],
    labels: Sequence[np.ndarray] | None,
    original: Sequence[np.ndarray],
    result: Sequence[np.ndarray],
    kinds: Sequence[str],
) -> Mistakes:
    """Compares the outputs of a file with the labels, or with the original's outputs where there are none.

    Args:
        inputs: of the model, the samples along the first axis.
        labels: one array an output.
        original, result: the outputs of the original model and of the file.
        kinds: of the outputs, as in `Objective`.
    """
    original, result = ([x if x.ndim > 1 else x[:, None] for x in outputs] for outputs in (original, result))
    # Several units of a sigmoid are classes only where labels say so.
    unclear = labels is None and kinds[0] == "probability" and result[0].shape[-1] > 1
    if len(result) == 1 and kinds[0] in _CLASSES and not unclear:
        made = _by_class(inputs, labels, original[0], result[0], kinds[0])
        if made is not None:
            return made
    shaped = [] if labels is None else [_fitted(y, out) for y, out in zip(labels, result, strict=True)]
    fitting = [y for y in shaped if y is not None]
    has_labels = labels is not None and len(fitting) == len(shaped)
    truth = fitting if has_labels else original
    errors = []
    for y, out in zip(truth, result, strict=True):
        y, out = y.reshape(len(y), -1).astype("float64"), out.reshape(len(out), -1).astype("float64")
        errors.append(np.abs(y - out).mean(1) / ((np.std(y) or 1.0) if len(result) > 1 else 1.0))
    weights = np.mean(errors, 0)
    show = _values if len(result) == 1 else lambda values: ""
    worst = _worst(inputs, weights, lambda i: (show(truth[0][i]), show(result[0][i])))
    return Mistakes(len(weights), "labels" if has_labels else "the original's outputs", "mean error", worst=worst)


def _by_class(inputs, labels, original, result, kind: str) -> Mistakes | None:
    classes = max(result.shape[-1], 2)
    before, after = _predicted_classes(original), _predicted_classes(result)
    if labels is None:
        true = before
    else:
        fitted = _fitted(labels[0], result)
        classed = class_labels(labels[0] if fitted is None else fitted, result)
        if classed is None:
            return None
        true = classed
    wrong = np.where(after != true, _confidence(result, kind), 0.0).reshape(len(result), -1)
    place = wrong.argmax(1)
    rows = np.arange(len(wrong))
    expected, received = (one.reshape(len(result), -1)[rows, place] for one in (true, after))
    worst = _worst(inputs, wrong[rows, place], lambda i: (str(expected[i]), str(received[i])))
    truth = "the original's outputs" if labels is None else "labels"
    return Mistakes(len(result), truth, "confidence", classes, _pairs(true, before), _pairs(true, after), worst)


def _fitted(labels: np.ndarray, outputs: np.ndarray) -> np.ndarray | None:
    """Labels in the shape of the outputs; None if their size differs, as for class numbers."""
    return labels.reshape(outputs.shape) if labels.size == outputs.size else None


def _predicted_classes(outputs: np.ndarray) -> np.ndarray:
    return (outputs[..., 0] > 0.5).astype(int) if outputs.shape[-1] == 1 else outputs.argmax(-1)


def _confidence(outputs: np.ndarray, kind: str) -> np.ndarray:
    outputs = outputs.astype("float64")
    if outputs.shape[-1] == 1:
        return np.maximum(outputs, 1 - outputs)[..., 0]
    if kind == "logits":
        outputs = np.exp(outputs - outputs.max(-1, keepdims=True))
        outputs /= outputs.sum(-1, keepdims=True)
    return outputs.max(-1)


def _pairs(true: np.ndarray, predicted: np.ndarray) -> Pairs:
    found, counts = np.unique(np.stack([true.ravel(), predicted.ravel()]), axis=1, return_counts=True)
    return tuple((int(t), int(s), int(n)) for t, s, n in zip(*found, counts, strict=True))


def _worst(inputs, weights: np.ndarray, shown_of: Callable[[int], tuple[str, str]]) -> tuple[WorstSample, ...]:
    order = [int(i) for i in np.argsort(-weights, kind="stable")[:_WORST] if weights[i] > 0]
    shown = next((x for x in inputs if _is_image(x)), inputs[0])
    low, high = float(shown.min()), float(shown.max())

    def look(i: int) -> dict:
        return {"picture": _picture(shown[i], low, high)} if _is_image(shown) else {"lines": _lines(shown[i])}

    def worst(i: int) -> WorstSample:
        expected, received = shown_of(i)
        return WorstSample(i, expected, received, float(weights[i]), **look(i))

    return tuple(map(worst, order))


def _is_image(samples: np.ndarray) -> bool:
    return samples.ndim == 4 and samples.shape[-1] in (1, 3) and min(samples.shape[1:3]) > 1


def _picture(sample: np.ndarray, low: float, high: float) -> str:
    """A PNG, from black at `low` to white at `high`."""
    import tensorflow as tf

    stride = -(-max(sample.shape[:2]) // _SIDE)
    pixels = (sample[::stride, ::stride].astype("float64") - low) / ((high - low) or 1.0)
    return base64.b64encode(tf.io.encode_png(np.round(255 * pixels).astype("uint8")).numpy()).decode()


def _lines(sample: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """The channels of a sequence; any other sample as one line."""
    channels = sample.T if sample.ndim == 2 else sample.reshape(1, -1)
    stride = -(-channels.shape[1] // _POINTS)
    return tuple(tuple(float(f"{v:.4g}") for v in channel[::stride]) for channel in channels[:_LINES])


def _values(values: np.ndarray) -> str:
    return ", ".join(f"{v:.4g}" for v in values.ravel()) if values.size <= 4 else ""
