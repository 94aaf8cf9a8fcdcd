"""`Objective`: the training loss; by default derived from labels and last activations."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfstruct.errors import ArgumentError, DataError
from tfstruct.graph import Channels, Graph
from tfstruct.graph.endings import ending
from tfstruct.keras_internals.training import loss_weights_of, metrics_of


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss, and what the outputs are.

    Attributes:
        loss: for `compile`; None where there are no labels.
        weights: of the losses of several outputs, or None.
        metrics: of the user's compilation, for the logs of training.
        kinds: by output: `"probabilities"` (softmax), `"logits"` (of classes), `"probability"` (sigmoid) or `"values"`.
        classes: by output: how many there are, where labels are their numbers and the loss takes no others; else None.
    """

    loss: Any
    weights: Any
    metrics: Any
    kinds: tuple[str, ...]
    classes: tuple[int | None, ...] = ()

    def require_classes(self, labels, source: str) -> None:
        """Refuses labels beyond the classes, which TensorFlow's kernels would stop at in the middle of training.

        Raises:
            DataError: with the range that is expected.
        """
        for y, count in zip(keras.tree.flatten(labels), self.classes, strict=False):
            if count is not None and y.size and not (y.min() >= 0 and y.max() < count):
                raise DataError(
                    f"{source}: labels must be in [0, {count}), the number of classes. Received {y.min()}..{y.max()}."
                )


def objective(graph: Graph, labels, loss=None) -> Objective:
    """Determines the training loss.

    Args:
        graph: of the model.
        labels: some of them, in the structure of the model's outputs, or None.
        loss: as in `compile`; by default the one the model is compiled with; else cross-entropy where labels are
            classes (integers, or one-hot behind a softmax) or in [0, 1] behind a sigmoid, and the mean squared error
            elsewhere.

    Raises:
        DataError: there are labels, but no output that they fit.
        ArgumentError: a loss that Keras does not know.
    """
    model = graph.model
    ys = [None] * len(graph.outputs) if labels is None else keras.tree.flatten(labels)
    endings = [ending(x)[0] for x in graph.body.functional.outputs]
    classes = [y is not None and _are_classes(y, x) for y, x in zip(ys, graph.outputs, strict=True)]
    kinds = tuple(map(_kind, endings, classes))
    if labels is None:
        return Objective(None, None, None, kinds)
    weights = metrics = None
    if loss is not None:
        _require_losses(loss)
    if loss is None and getattr(model, "loss", None) is not None:
        loss, weights = model.loss, loss_weights_of(model)
        metrics = metrics_of(model)
    if loss is None:
        found = [_loss(*one) for one in zip(ys, graph.outputs, kinds, endings, strict=True)]
        loss = keras.tree.pack_sequence_as(labels, found)
    names = graph.body.functional.output_names
    loss, weights, metrics = (_in_order(one, labels, names) for one in (loss, weights, metrics))
    by_output = keras.tree.flatten(loss)
    by_output = by_output if len(by_output) == len(ys) else by_output * len(ys)
    counts = tuple(
        x.shape[-1] if yes and _takes_classes_alone(function) else None
        for yes, function, x in zip(classes, by_output, graph.outputs, strict=False)
    )
    return Objective(loss, weights, metrics, kinds, counts)


def _require_losses(loss) -> None:
    for one in keras.tree.flatten(loss):
        try:
            keras.losses.get(one)
        except (ValueError, TypeError) as error:
            raise ArgumentError(
                f"`loss` must be a name that Keras knows, a keras.losses.Loss or a function (labels, outputs) -> loss. "
                f"Received: {one!r}."
            ) from error


def _takes_classes_alone(loss) -> bool:
    if isinstance(loss, str):
        return keras.losses.get(loss) is keras.losses.sparse_categorical_crossentropy
    sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    return loss is keras.losses.sparse_categorical_crossentropy or (sparse and loss.ignore_class is None)


def _in_order(given, labels, names):
    """A structure by output name as a list in the order of the outputs, for a model whose outputs are not a dict."""
    if not isinstance(given, Mapping) or isinstance(labels, Mapping):
        return given
    return [given.get(name) for name in names]


def _are_classes(y: np.ndarray, output: Channels) -> bool:
    """Whether labels are class numbers, one for each sample or position."""
    whole = np.issubdtype(y.dtype, np.integer) or y.dtype == bool
    width = output.shape[-1]
    return bool(whole and width is not None and width > 1 and y.ndim in (output.rank - 1, output.rank) and (
        y.ndim == output.rank - 1 or y.shape[-1] == 1
    ))  # fmt: skip


def _kind(ending: str, classes: bool) -> str:
    if ending == "softmax":
        return "probabilities"
    if ending == "sigmoid":
        return "probability"
    return "logits" if classes else "values"


def _loss(y: np.ndarray, output: Channels, kind: str, ending: str):
    if _are_classes(y, output):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=kind == "logits")
    if not np.isfinite(y).all():
        raise DataError(
            "Labels must be finite. Received NaN or infinity. Clean them, or give a loss that leaves them out."
        )
    if not _fits(y, output):
        raise DataError(
            f"Labels of shape {y.shape[1:]} do not fit an output of shape {tuple(output.shape[1:])}. Give loss=..., or "
            "compile the model with one."
        )
    unit = bool(y.min() >= 0 and y.max() <= 1)
    if kind == "probabilities" and unit:
        return keras.losses.CategoricalCrossentropy()
    if kind == "probability" and unit:
        return keras.losses.BinaryCrossentropy()
    if ending == "linear" and output.shape[-1] == 1 and not np.issubdtype(y.dtype, np.floating) and unit:
        return keras.losses.BinaryCrossentropy(from_logits=True)
    return keras.losses.MeanSquaredError()


def _fits(y: np.ndarray, output: Channels) -> bool:
    """Whether each label has the shape of an output, but for a last axis of one."""
    wanted, given = list(output.shape[1:]), list(y.shape[1:])
    if wanted[-1:] == [1] and len(given) == len(wanted) - 1:
        given.append(1)
    return len(given) == len(wanted) and all(w in (None, g) for w, g in zip(wanted, given, strict=True))
