"""How good a model's outputs are: one figure, which all choices are made by."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfstruct.analyze.evaluation import scoring
from tfstruct.analyze.losses import loss_function
from tfstruct.compression.dataset import Examples
from tfstruct.compression.objective import Objective
from tfstruct.errors import DataError, RecipeError
from tfstruct.graph import Graph
from tfstruct.keras_internals.training import better_when, metric_objects


@dataclasses.dataclass(frozen=True)
class Quality:
    """A metric of outputs on the validation data.

    Attributes:
        name: such as `"accuracy"`.
        greater_is_better: whether more of it is better.
        measure: (labels, outputs), in the structure of the model's outputs, to a float.
    """

    name: str
    greater_is_better: bool
    measure: Callable[[object, object], float]


def quality(
    graph: Graph,
    examples: Examples,
    aim: Objective,
    metric: "str | Callable | keras.metrics.Metric | None" = None,
    greater: bool | None = None,
) -> Quality:
    """Finds the metric.

    Args:
        graph: of the model.
        examples: validation data. Without labels, the metric is the agreement with the outputs of the model itself.
        aim: what the model is trained for.
        metric: `"accuracy"`, `"loss"`, the name of a metric that the model is compiled with or that Keras knows, a
            Keras metric, or a function (labels, outputs) -> float. None: accuracy where the labels of a single output
            are classes, the loss elsewhere.
        greater: whether more is better, for a function or a metric that does not say so.
    """
    if examples.labels is None:
        if metric is not None:
            raise DataError(f"The metric {metric!r} needs labels, and {examples.source} has none.")
        return Quality("agreement", True, functools.partial(agreement, aim.kinds))
    found = metric
    if isinstance(metric, str) and metric not in ("accuracy", "loss"):
        found = _by_name(graph.model, metric)
    if isinstance(found, keras.metrics.Metric):
        return _of_metric(found, greater)
    name, measure = scoring(graph, examples.labels, aim.loss, found)
    if name == "loss" and not callable(found):
        loss = loss_function(graph.model, aim.loss, "metric='loss'", aim.weights)
        return Quality(name, False, lambda labels, outputs: float(loss(labels, outputs)))
    if not callable(found):
        return Quality(name, True, measure)
    if greater is None:
        raise RecipeError(f"Is more of the metric `{name}` better? Say so: greater_is_better=True or False.")
    return Quality(name, greater, measure)


def agreement(kinds: Sequence[str], expected, outputs) -> float:
    """How far outputs agree with those expected, the mean over the outputs: of probabilities of classes the share with
    equal argmax, of anything else `1 - sum (e - o)^2 / sum e^2`."""
    found = []
    for kind, e, o in zip(kinds, keras.tree.flatten(expected), keras.tree.flatten(outputs), strict=True):
        if kind == "probabilities":
            found.append(np.mean(e.argmax(-1) == o.argmax(-1)))
        else:
            e, o = e.astype("float64"), o.astype("float64")
            found.append(1 - np.square(e - o).sum() / max(np.square(e).sum(), 1e-30))
    return float(np.mean(found))


def _by_name(model, name: str):
    compiled = {one.name: one for one in metric_objects(model)}
    if name in compiled:
        return type(compiled[name]).from_config(compiled[name].get_config())
    try:
        return keras.metrics.get(name)
    except ValueError as error:
        known = ", ".join(["accuracy", "loss", *compiled])
        raise RecipeError(f"`metric` must be one of {known}, or one that Keras knows. Received: {name!r}.") from error


def _of_metric(metric: keras.metrics.Metric, greater: bool | None) -> Quality:
    if greater is None:
        direction = better_when(metric)
        if direction not in ("up", "down"):
            raise RecipeError(f"Is more of the metric `{metric.name}` better? Say so: greater_is_better=True or False.")
        greater = direction == "up"

    def measure(labels, outputs) -> float:
        if len(keras.tree.flatten(outputs)) != 1:
            raise DataError(f"The metric `{metric.name}` is of one output. Give a function (labels, outputs) -> float.")
        metric.reset_state()
        metric.update_state(keras.tree.flatten(labels)[0], keras.tree.flatten(outputs)[0])
        return float(metric.result())

    return Quality(metric.name, greater, measure)
