"""One look into a model on a batch that is kept: loss, gradients and activations by layer, nothing changed."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstruct.graph.endings import activation_of
from tfstruct.graph.layer_tree import intercepted, layer_paths
from tfstruct.graph.operation_traits import function_traits
from tfstruct.graph.traits import ANY

# Outputs that can be zero for every sample.
_RECTIFIERS = {"relu", "relu6"}
_SATURATED = 0.01  # of the width of the range: there a sigmoid passes 1 % of the gradient, a tanh 4 %


@dataclasses.dataclass(frozen=True)
class LayerFigures:
    """Norms over the weights of a layer with two or more axes (biases and scales left out).

    Attributes:
        gradient: Frobenius norm of the loss's gradient.
        weight: Frobenius norm of the weights.
        signal: how much the output differs between samples: its standard deviation over the samples, root mean square
            over the units.
    """

    gradient: float
    weight: float
    signal: float


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a probe saw.

    Attributes:
        step: steps done before it.
        loss: on the kept batch, in training mode, with losses of regularizers.
        layers: by path, in the order of the calls.
        output_gradient: mean over the samples of the norm of dL_i/d(outputs).
        dead: path of a rectifier -> share of its units that are zero for all samples (and places).
        saturated: path of a sigmoid or tanh -> share of its units at an end of the range for all samples.
        broken: paths whose output is not finite, in the order in which they were computed.
        undefined: those of them that hold NaN.
        broken_gradients: paths whose gradient is not finite, the last layer first.
        learning_rate: None where it is not known.
    """

    step: int
    loss: float
    layers: Mapping[str, LayerFigures]
    output_gradient: float
    dead: Mapping[str, float] = dataclasses.field(default_factory=dict)
    saturated: Mapping[str, float] = dataclasses.field(default_factory=dict)
    broken: tuple[str, ...] = ()
    undefined: tuple[str, ...] = ()
    broken_gradients: tuple[str, ...] = ()
    learning_rate: float | None = None


class Probe:
    """Forward and backward on one kept batch, as a function of given weights, traced once.

    It runs in a `keras.StatelessScope`: batch norm's statistics, seed generators, metrics and weights stay as they are.
    Dropout has the same mask each time, so that losses of two probes differ by the weights alone.

    Args:
        model: built.
        batch: (x, y) or (x, y, sample_weight), arrays or tensors.
        loss: (y, outputs) -> scalar or one value a sample; by default the model's own `compute_loss`.
    """

    def __init__(self, model: keras.Model, batch: Sequence, loss: Callable | None = None):
        self.model, self.batch, self._loss = model, tuple(batch), loss
        self._trainable, self._other = list(model.trainable_variables), list(model.non_trainable_variables)
        # States of seed generators are integers; the first ones serve for all probes.
        self._seeds = {id(v): _value(v) for v in self._other if "int" in v.dtype}
        self.ids = [id(v) for v in self._trainable]
        self._function = tf.function(self._look, autograph=False)
        self._names: dict[str, list[str]] = {}

    def weights(self) -> list[tf.Tensor]:
        """Copies of the trainable weights, in the order of `model.trainable_variables`."""
        return [_value(v) for v in self._trainable]

    def names(self) -> list[str]:
        """Paths of the trainable weights."""
        return [v.path for v in self._trainable]

    def traces(self) -> int:
        return self._function.experimental_get_tracing_count()

    def __call__(self, step: int, weights: Sequence | None = None, learning_rate: float | None = None) -> Figures:
        """The figures at these weights, by default the model's own."""
        weights = self.weights() if weights is None else weights
        other = [self._seeds.get(id(v), None) for v in self._other]
        other = [_value(v) if kept is None else kept for v, kept in zip(self._other, other, strict=True)]
        found = {key: value.numpy() for key, value in self._function(weights, other, self.batch).items()}
        names = self._names
        layers = {
            path: LayerFigures(*map(float, row)) for path, row in zip(names["layers"], found["layers"], strict=True)
        }
        return Figures(
            step=step,
            loss=float(found["loss"]),
            layers=layers,
            output_gradient=float(found["output_gradient"]),
            dead=_shares(names["dead"], found["dead"]),
            saturated=_shares(names["saturated"], found["saturated"]),
            broken=tuple(p for p, n in zip(names["calls"], found["health"], strict=True) if n > 0),
            undefined=tuple(p for p, n in zip(names["calls"], found["health"], strict=True) if n > 1),
            broken_gradients=tuple(p for p, row in reversed(layers.items()) if not math.isfinite(row.gradient)),
            learning_rate=learning_rate,
        )

    def _look(self, weights, other, batch):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        outer = tf.compat.v1.get_default_graph()
        calls: list[tuple[str, keras.Operation, tf.Tensor]] = []

        def route(path, op, call):
            def watched(*args, **kwargs):
                outputs = call(*args, **kwargs)
                for value in keras.tree.flatten(outputs):
                    # What is made inside a loop (a cell of a recurrent layer) cannot be read outside it.
                    if tf.is_tensor(value) and value.dtype.is_floating and getattr(value, "graph", None) is outer:
                        calls.append((path, op, value))
                return outputs

            return watched

        mapping = [*zip(self._trainable, weights, strict=True), *zip(self._other, other, strict=True)]
        paths = layer_paths(self.model)
        with (
            tf.GradientTape(watch_accessed_variables=False) as tape,
            keras.StatelessScope(state_mapping=mapping, collect_losses=True),
            intercepted(paths, route),
        ):
            tape.watch(weights)
            outputs = self._forward(x)
            loss = self._loss_of(x, y, outputs, sample_weight)
            scale = self._scale()
            scaled = loss * tf.cast(scale, loss.dtype)
        flat = [o for o in keras.tree.flatten(outputs) if o.dtype.is_floating]
        gradients = tape.gradient(scaled, [*weights, *flat])
        of_weights, of_outputs = gradients[: len(weights)], gradients[len(weights) :]
        norms = [
            _norm(g) / scale if g is not None and len(v.shape) >= 2 else None
            for g, v in zip(of_weights, self._trainable, strict=True)
        ]
        by_samples = [_sample_norms(g) for g in of_outputs if g is not None]
        rows, self._names["layers"] = self._rows(paths, calls, weights, norms)
        self._names["calls"] = [path for path, _, _ in calls]
        result: dict[str, Any] = {"dead": {}, "saturated": {}}
        ends = {id(o) for o in flat}
        for path, op, value in calls:
            kind = activation_of(op)
            if kind in _RECTIFIERS:
                result["dead"].setdefault(path, _share(op, tf.equal(value, 0)))
            elif _saturates(kind) and id(value) not in ends:
                low, high = function_traits(kind).output_range or ANY
                near = _SATURATED * (high - low)
                result["saturated"].setdefault(path, _share(op, (value < low + near) | (value > high - near)))
        for key, shares in result.items():
            self._names[key] = list(shares)
        return {
            "loss": tf.cast(loss, tf.float32),
            "layers": _stacked(rows, 3),
            "output_gradient": tf.add_n([tf.reduce_sum(n) for n in by_samples]) / scale if by_samples else tf.zeros(()),
            "health": _health([value for _, _, value in calls]),
            **{key: tf.stack(list(shares.values())) if shares else tf.zeros((0,)) for key, shares in result.items()},
        }

    def _forward(self, x):
        return self.model(x, training=True)

    def _loss_of(self, x, y, outputs, sample_weight):
        if self._loss is None:
            return self.model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight)
        return tf.reduce_mean(self._loss(y, outputs)) + sum(tf.reduce_sum(one) for one in self.model.losses)

    def _scale(self) -> tf.Tensor:
        """By how much the optimizer scales the loss: float16 gradients vanish without it."""
        optimizer = getattr(self.model, "optimizer", None)
        one = tf.ones(())
        scale_loss = getattr(optimizer, "scale_loss", None)
        return one if scale_loss is None else scale_loss(one)

    def _rows(self, paths, calls, weights, norms):
        """Gradient, weight and signal of each layer that has weights with two axes or more, in order of the calls."""
        index = {id(v): i for i, v in enumerate(self._trainable)}
        owned = {}
        for path, op in paths.items():  # outer layers first: the innermost owner has the last word
            for variable in getattr(op, "trainable_variables", ()):
                if id(variable) in index and norms[index[id(variable)]] is not None:
                    owned[id(variable)] = path
        signals: dict[str, tf.Tensor] = {}
        order: dict[str, None] = {}
        wanted = set(owned.values())
        for path, _, value in calls:
            order[path] = None
            if path in wanted and path not in signals:
                signals[path] = _signal(value)
        members: dict[str, list[int]] = {}
        for key, path in owned.items():
            members.setdefault(path, []).append(index[key])
        # A layer inside a loop has no call that is seen: it stands where its outer layer does.
        found = list(order)

        def place(path):
            while path and path not in order:
                path = path.rpartition("/")[0]
            return found.index(path) if path else len(found)

        rows = {}
        for path in sorted(members, key=place):
            squares = [(norms[i] ** 2, _norm(weights[i]) ** 2) for i in members[path]]
            rows[path] = (
                tf.sqrt(tf.add_n([g for g, _ in squares])),
                tf.sqrt(tf.add_n([w for _, w in squares])),
                signals.get(path, tf.constant(math.nan)),
            )
        return list(rows.values()), list(rows)


def _value(variable: keras.Variable) -> tf.Tensor:
    return tf.identity(tf.convert_to_tensor(variable.value))


def _shares(names: list[str], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _norm(tensor) -> tf.Tensor:
    """In float32, without over- or underflow of the squares: gradients of 1e-30 are what this is about."""
    value = tf.cast(tf.convert_to_tensor(tensor), tf.float32)
    unit = _unit(value)
    return unit * tf.norm(value / unit)


def _unit(value: tf.Tensor) -> tf.Tensor:
    """The largest size in it, 1 where that is nothing to divide by."""
    most = tf.reduce_max(tf.abs(value))
    return tf.where((most > 0) & tf.math.is_finite(most), most, 1.0)


def _health(values: list[tf.Tensor]) -> tf.Tensor:
    """For each 0 for all finite, 1 with an infinity, 2 with a NaN."""
    if not values:
        return tf.zeros((0,), tf.int32)

    def exact():
        nan = [tf.reduce_any(tf.math.is_nan(v)) for v in values]
        whole = [tf.reduce_all(tf.math.is_finite(v)) for v in values]
        return tf.where(tf.stack(nan), 2, tf.where(tf.stack(whole), 0, 1))

    # A sum is one pass and finite in nearly every probe; where it overflows alone, the exact look clears it.
    sums = tf.stack([tf.cast(tf.reduce_sum(v), tf.float32) for v in values])
    return tf.cond(tf.reduce_all(tf.math.is_finite(sums)), lambda: tf.zeros((len(values),), tf.int32), exact)


def _sample_norms(tensor) -> tf.Tensor:
    value = tf.cast(tf.convert_to_tensor(tensor), tf.float32)
    if value.shape.rank == 0:
        return tf.abs(value)
    return tf.norm(tf.reshape(value, (tf.shape(value)[0], -1)), axis=1)


def _signal(tensor) -> tf.Tensor:
    if tensor.shape.rank == 0:
        return tf.constant(math.nan)
    value = tf.cast(tensor, tf.float32)
    value = value - tf.reduce_mean(value, axis=0)  # first, or a large mean swallows the rest
    unit = _unit(value)
    return unit * tf.sqrt(tf.reduce_mean((value / unit) ** 2))


def _stacked(rows, width: int) -> tf.Tensor:
    return tf.stack([tf.stack(row) for row in rows]) if rows else tf.zeros((0, width))


def _share(op, condition: tf.Tensor) -> tf.Tensor:
    """The share of units for which it holds for all samples; a unit is a channel where there are places."""
    axis = 1 if getattr(op, "data_format", None) == "channels_first" else condition.shape.rank - 1
    others = [i for i in range(condition.shape.rank) if i != axis]
    return tf.reduce_mean(tf.cast(tf.reduce_all(condition, axis=others), tf.float32))


def _saturates(function: str | None) -> bool:
    """Whether an activation function of single values ends at both sides."""
    traits = function_traits(function)
    return traits.elementwise and math.isfinite(sum(map(abs, traits.output_range or ANY)))
