"""`describe`: how activations and gradients fare through the layers of a model."""

import dataclasses
import math
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze.data_criteria import run
from tfstruct.analyze.inference import in_inference
from tfstruct.analyze.losses import loss_function
from tfstruct.arguments import require_count
from tfstruct.errors import ModelError
from tfstruct.graph import Graph, trace
from tfstruct.reporting import Plotted, Report, Sheet
from tfstruct.reporting.figures import logarithmic
from tfstruct.samples.for_model import samples_of

# A standard deviation that changes by this factor from end to end is out of hand: 1e4 as a variance.
FAR = 100.0


@dataclasses.dataclass(frozen=True)
class Signals(Plotted, Report):
    """Variances of activations and gradients, layer by layer in order of execution. `plot` draws them over the layers.

    Attributes:
        model: its name.
        target: what the gradients are of: `"loss"`, or `"random direction"` of the outputs.
        layers: the paths of the layers with weights.
        means: of each layer's outputs, over samples, positions and channels.
        variances: of each layer's outputs.
        gradients: variance of the gradient with respect to each layer's outputs, of the sum over samples.
    """

    model: str
    target: str
    layers: tuple[str, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]
    gradients: tuple[float, ...]

    _derived: ClassVar[tuple[str, ...]] = ("findings",)

    @property
    def findings(self) -> tuple[str, ...]:
        """What is out of hand, in words; empty where nothing is.

        Activations vanish or explode if the standard deviation of the last layer's is a hundredth or a hundred times
        that of the first; gradients if that of the first layer's is, compared with the last.
        """
        found = [f"`{name}` puts out numbers that are not finite" for name, v in self._rows(self.variances)
                 if not math.isfinite(v)][:1]  # fmt: skip
        found += [f"the gradient at `{name}` is not finite" for name, v in self._rows(self.gradients)
                  if not math.isfinite(v)][:1]  # fmt: skip
        if found:
            return tuple(found)
        for what, values, ends in (
            ("activations", self.variances, (self.layers[0], self.layers[-1])),
            ("gradients", self.gradients[::-1], (self.layers[-1], self.layers[0])),
        ):
            change = math.sqrt(values[-1] / values[0]) if values[0] else math.inf if values[-1] else 0.0
            if not 1 / FAR < change < FAR:
                how = "vanish" if change < 1 else "explode"
                found.append(f"{what} {how}: from `{ends[0]}` to `{ends[1]}` their scale changes by {change:.2g} times")
        return tuple(found)

    def _rows(self, values):
        return zip(self.layers, values, strict=True)

    def sheet(self) -> Sheet:
        columns = ("layer", ("mean", ".3g"), ("variance", ".3g"), ("gradient's variance", ".3g"))
        rows = list(zip(self.layers, self.means, self.variances, self.gradients, strict=True))
        return Sheet(f"{self.model}: gradients of the {self.target}", columns, rows, notes=self.findings)

    def _size(self) -> tuple[float, float]:
        return max(4.5, 1.5 + 0.28 * len(self.layers)), 4

    def _draw(self, axis) -> None:
        for values, name in ((self.variances, "activations"), (self.gradients, "gradients")):
            # A logarithm has no place for 0.
            axis.plot([v if v > 0 and math.isfinite(v) else math.nan for v in values], marker="o", ms=3, label=name)
        logarithmic(axis, "y")
        axis.set_xticks(range(len(self.layers)), list(self.layers), rotation=90, fontsize=7)
        axis.set_ylabel("variance")
        axis.set_title(f"{self.model}: gradients of the {self.target}")
        axis.legend()


@in_inference
def describe(
    model: keras.Model, data, labels=None, *, loss=None, samples: int = 64, training: bool = True, seed: int = 0
) -> Signals:
    """Runs data through a model and back: mean and variance of what each layer puts out, variance of its gradient.

    For a model as it was initialized this shows signals that vanish or explode with depth. A layer that is called
    several times has a row for each call. The gradient is that of the loss, summed over the samples so that it does
    not depend on their number; without labels or a loss, that of sum(outputs * r), r of independent normal numbers.
    Nothing is trained: statistics of batch norms and states of dropout are put back.

    Args:
        model: Sequential or functional.
        data, labels: see `tfstruct.samples`; labels are optional.
        loss: by default the one the model is compiled with.
        samples: how many of the samples are used, all at once.
        training: whether batch norms and dropout act as in training.
        seed: of r.

    Returns:
        `Signals`: a row for each layer, with the mean and the variances.

    Raises:
        ModelError: the model has no graph, or no layer with weights.
        DataError: data that do not fit.

    Example:
        >>> signals = tfstruct.initializers.describe(model, x, y)
        >>> list(signals.layers)
        ['hidden', 'scores']
    """
    require_count("samples", samples)
    graph = trace(model)
    need = None if loss is None else "The gradient of a loss needs labels"
    found = samples_of(model, data, labels, use_labels=True, need=need, limit=samples).in_memory()
    flat, y = [tf.convert_to_tensor(v) for v in found.inputs], found.labels
    if y is not None and (loss is not None or getattr(model, "loss", None) is not None):
        count = len(flat[0])
        function = loss_function(model, loss, "describe")
        name, target = "loss", lambda outputs: tf.cast(function(y, outputs), "float32") * count
    else:
        rng = np.random.default_rng(seed)
        name, target = (
            "random direction",
            lambda outputs: sum(
                tf.reduce_sum(tf.cast(out, "float32") * rng.normal(size=out.shape))
                for out in keras.tree.flatten(outputs)
            ),
        )
    states = [(v, v.numpy()) for v in model.non_trainable_variables]
    try:
        rows = _measured(graph, flat, target, training)
    finally:
        for variable, value in states:
            variable.assign(value)
    if not rows:
        raise ModelError(f"`{model.name}` has no layer with weights, so there is nothing to describe.")
    return Signals(model.name, name, *(tuple(column) for column in zip(*rows, strict=True)))


def _measured(graph: Graph, flat, target, training) -> list[tuple[str, float, float, float]]:
    seen: list[tuple] = []
    values = {}

    def visit(call, outputs):
        # Keras would take a loss past a softmax, from the logits that it finds on the tensor.
        outputs[:] = [tf.identity(value) for value in outputs]
        for channels, value in zip(call.outputs, outputs, strict=True):
            values[channels.key] = value
        floats = keras.backend.standardize_dtype(outputs[0].dtype).startswith(("float", "bfloat"))
        if isinstance(call.op, keras.layers.Layer) and call.op.weights and floats:
            tape.watch(outputs[0])
            seen.append((call.path, outputs[0]))

    with tf.GradientTape() as tape:
        values.update({t.key: v for t, v in zip(graph.body.inputs, flat, strict=True)})
        run(graph, flat, visit, training)
        ends = [values[t.key] for t in graph.outputs]
        found = target(keras.tree.pack_sequence_as(graph.body.functional.output, ends))
    gradients = tape.gradient(found, [value for _, value in seen], unconnected_gradients="zero")
    rows = []
    for (path, value), gradient in zip(seen, gradients, strict=True):
        value, gradient = (tf.cast(v, "float64").numpy() for v in (value, tf.convert_to_tensor(gradient)))
        rows.append((path, float(value.mean()), float(value.var()), float(gradient.var())))
    return rows
