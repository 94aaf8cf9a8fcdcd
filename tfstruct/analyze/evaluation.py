"""What a model says about samples, and how good that is."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze.data_criteria import structured
from tfstruct.analyze.losses import loss_function, slices
from tfstruct.errors import ArgumentError, DataError
from tfstruct.graph import Graph
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.sizes import fixed_batch


def predictor(graph: Graph, inputs: list[np.ndarray], batch_size: int) -> Callable[..., object]:
    """A function of the samples' indices (by default all) that runs the model, as it is then, on them: NumPy arrays."""
    batch = fixed_batch(graph.model)

    @tf.function(reduce_retracing=True)
    def predict(batch):
        return graph.model(structured(graph, batch), training=False)

    def outputs(rows=None):
        chosen = inputs if rows is None else [v[rows] for v in inputs]
        count = len(chosen[0])
        if batch is not None:  # the last batch is filled up, and what it adds is left out
            chosen = [np.concatenate([v, np.repeat(v[-1:], -count % batch, axis=0)]) for v in chosen]
        with states_kept(graph.model):  # every run begins with the same
            parts = [predict([v[s] for v in chosen]) for s in slices(len(chosen[0]), batch or batch_size)]
        return keras.tree.map_structure(lambda *p: np.concatenate([q.numpy() for q in p])[:count], *parts)

    return outputs


def scoring(graph: Graph, y, loss, metric: str | Callable | None) -> tuple[str, Callable[[Any, Any], float]]:
    """The name of a metric, and the metric: (labels, outputs) -> float.

    Args:
        y: the labels; what the metric takes later are these, or some of them.
        loss: for `metric="loss"`; by default the one the model is compiled with.
        metric: `"accuracy"`, `"loss"` or a function; by default accuracy where labels are classes, and loss otherwise.
    """
    if metric is None:
        metric = "accuracy" if _classes(y, graph) else "loss"
    if callable(metric):
        return getattr(metric, "__name__", "metric"), lambda labels, outputs: float(metric(labels, outputs))
    if metric not in ("accuracy", "loss"):
        raise ArgumentError(f"`metric` must be 'accuracy', 'loss' or a function. Received: {metric!r}.")
    if metric == "loss":
        function = loss_function(graph.model, loss, "metric='loss'")
        return metric, lambda labels, outputs: float(function(labels, outputs))
    if not hasattr(y, "shape") or len(graph.outputs) != 1:
        raise DataError("metric='accuracy' needs one output. Give a function (labels, outputs) -> float.")
    return metric, _accuracy


def _classes(y, graph: Graph) -> bool:
    if not hasattr(y, "shape") or len(graph.outputs) != 1:
        return False
    width = graph.outputs[0].shape[-1]
    one_hot = y.ndim > 1 and width is not None and y.shape[-1] == width > 1
    return bool(np.isin(y, (0, 1)).all()) if one_hot else np.issubdtype(y.dtype, np.integer) or y.dtype == bool


def _accuracy(y: np.ndarray, out) -> float:
    out = keras.tree.flatten(out)[0]
    if out.shape[-1] == 1:
        return float(np.mean((out.ravel() > 0.5) == (y.ravel() > 0.5)))
    if y.shape == out.shape:
        y = y.argmax(-1)
    return float(np.mean(out.argmax(-1).ravel() == y.ravel()))
