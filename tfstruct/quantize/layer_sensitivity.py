"""`sensitivity`: the loss of quality if one layer alone is quantized."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze.data_criteria import structured
from tfstruct.analyze.evaluation import scoring
from tfstruct.analyze.inference import in_inference
from tfstruct.analyze.losses import slices
from tfstruct.arguments import checked
from tfstruct.errors import ArgumentError
from tfstruct.former_names import formerly
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.opening import open_by_itself
from tfstruct.precisions import TO_CHOOSE
from tfstruct.quantize.calibration import calibrate
from tfstruct.quantize.fused import fused
from tfstruct.quantize.grids import stored
from tfstruct.quantize.scheme import Scheme
from tfstruct.quantize.sensitivity_report import LayerSensitivity, QuantizationSensitivity
from tfstruct.quantize.simulation import Simulation
from tfstruct.samples.for_model import samples_of
from tfstruct.terminal import Progress, Verbose, shows_progress, silent


@formerly(observer="calibrator")
@in_inference
@shows_progress
@checked
def sensitivity(
    model: keras.Model,
    data,
    schemes: Sequence[str] = TO_CHOOSE,
    *,
    labels=None,
    metric: str | Callable | None = None,
    loss=None,
    calibrator: str = "minmax",
    batch_size: int = 32,
    progress: Progress = silent,
    verbose: Verbose = "auto",
    open_layers: str | bool = "auto",
) -> QuantizationSensitivity:
    """Quantizes each layer alone (its weights and its output), and measures how far the model's outputs move.

    A layer here is what becomes one operator of the file: a convolution with its batch norm and ReLU is one. By layer
    and precision: `SQNR = 10 log10(sum y^2 / sum (y - y')^2)` of the outputs in dB, of several outputs the least; with
    labels, the metric too. A precision that a layer's weights cannot have has no line.

    Args:
        model: a model that can be traced; not changed.
        data: samples, or pairs with labels; see `calibrate`. Ranges are found on the same samples.
        schemes: precisions, see `Scheme`.
        labels: where `data` does not hold them.
        metric: `"accuracy"`, `"loss"`, or a function (labels, outputs) -> float over all samples; by default accuracy
            where labels are classes, and loss otherwise.
        loss: for `metric="loss"`; by default the one the model is compiled with.
        calibrator: see `calibrate`.
        progress: called with (stage, measurements done, measurements in all).
        verbose: what is shown while it works, see `tfstruct.compress`.
        open_layers: `"auto"` opens custom layers, so that layers inside are seen too; False: none. See `calibrate`.

    Returns:
        `QuantizationSensitivity`: by layer and precision the SQNR in dB, and the metric if there are labels.

    Raises:
        ArgumentError: no scheme.

    Example:
        >>> report = tfstruct.quantize.sensitivity(model, x, ("int8",))
        >>> sorted({row.layer for row in report.rows})
        ['hidden', 'scores']
    """
    if not schemes:
        raise ArgumentError("`schemes` must name at least one precision. Received none.")
    opened = open_by_itself(model, open_layers)
    model = opened.model
    found = samples_of(model, data, labels, use_labels=True).in_memory()
    flat, y = found.inputs, found.labels
    twins = {p: calibrate(model, (flat,), p, calibrator, batch_size=batch_size, open_layers=False) for p in schemes}
    alone = {precision: _Alone(model, twin.scheme) for precision, twin in twins.items()}
    for precision, simulation in alone.items():
        simulation.assign(twins[precision].simulation.values())
    first = next(iter(alone.values()))
    name, score = (None, None) if y is None else scoring(first.rounding_points.graph, y, loss, metric)
    reference = first.outputs(None, flat, batch_size)
    baseline = None if score is None else score(y, reference)
    todo = [(layer, precision) for layer in first.layers for precision in schemes if layer.takes(precision)]
    rows = []
    for done, (layer, precision) in enumerate(todo, 1):
        outputs = alone[precision].outputs(layer.path, flat, batch_size)
        value = None if score is None else score(y, outputs)
        rows.append(LayerSensitivity(layer.path, layer.paths, precision, sqnr(reference, outputs), value))
        progress("sensitivity", done, len(todo))
    return QuantizationSensitivity(
        model.name, len(flat[0]), name, baseline, tuple(rows), opened=opened.opened, opaque=opened.closed
    )


def sqnr(reference, outputs) -> float:
    """SQNR in dB; of several outputs the lowest. Infinite if nothing differs."""
    found = []
    for a, b in zip(keras.tree.flatten(reference), keras.tree.flatten(outputs), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        noise = np.square(a - b).sum()
        found.append(10 * np.log10(max(np.square(a).sum(), 1e-30) / noise) if noise > 0 else np.inf)
    return float(min(found))


class _Alone(Simulation):
    """A model in which one layer at a time is quantized, chosen by a variable, so that it is traced once.

    Attributes:
        layers: that can be chosen, see `fused`.
    """

    def __init__(self, model: keras.Model, scheme: Scheme):
        super().__init__(model, scheme)
        self.integers.used = False  # what a layer reads are none
        self.layers = fused(self.rounding_points)
        self._number = {path: i for i, layer in enumerate(self.layers) for path in layer.paths}
        self._chosen = tf.Variable(-1, trainable=False)
        self._run = tf.function(self._whole, reduce_retracing=True)

    def _whole(self, batch):
        return self(structured(self.rounding_points.graph, batch), training=False)

    def outputs(self, path: str | None, flat: list[np.ndarray], batch_size: int):
        """The model's outputs with one layer quantized; with None, no layer."""
        self._chosen.assign(-1 if path is None else self._number[path])
        with states_kept(self.rounding_points.graph.model):  # every run begins with the same
            parts = [self._run([x[part] for x in flat]) for part in slices(len(flat[0]), batch_size)]
        return keras.tree.map_structure(lambda *p: np.concatenate([q.numpy() for q in p]), *parts)

    def _alone(self, path: str, quantized: Callable, plain: Callable):
        """`quantized` if the layer at a path is the chosen one, else `plain`."""
        return tf.cond(tf.equal(self._chosen, self._number[path]), quantized, plain)

    def _quantized(self, point, x, training):
        if point.path not in self._number:
            return x  # an input of the model
        quantized = super()._quantized
        return self._alone(point.path, lambda: quantized(point, x, training), lambda: x)

    def _quantized_kernel(self, op, grid, training, ahead=1.0):
        quantized = super()._quantized_kernel
        return self._alone(
            self.rounding_points.paths[id(op)],
            lambda: quantized(op, grid, training, ahead),
            lambda: stored(grid) * ahead,
        )

    def _of_constant(self, op, quantized, plain):
        path = self.rounding_points.paths[id(op)]
        return self._alone(path, lambda: quantized, lambda: plain) if path in self._number else plain

    def _separable(self, op, before, x, training):
        halves = super()._separable
        return self._alone(
            self.rounding_points.paths[id(op)], lambda: halves(op, before, x, training), lambda: type(op).call(op, x)
        )
