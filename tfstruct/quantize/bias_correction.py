"""`correct_bias`: removes the mean error that rounding adds to each channel, by its bias."""

from collections import Counter
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfstruct.analyze.data_criteria import structured
from tfstruct.analyze.inference import in_inference
from tfstruct.analyze.losses import slices
from tfstruct.arguments import checked
from tfstruct.former_names import formerly
from tfstruct.graph.layer_tree import without_activation
from tfstruct.graph.linear_layers import arrays as weights_of
from tfstruct.graph.linear_layers import norm_arrays
from tfstruct.graph.opening import open_by_itself
from tfstruct.graph.operation_traits import traits_of
from tfstruct.graph.wiring import Remake
from tfstruct.quantize.bias_report import BiasCorrection, CorrectedBias
from tfstruct.quantize.calibration import calibrate
from tfstruct.quantize.preactivations import channels_axis, moments
from tfstruct.quantize.scheme import Scheme
from tfstruct.quantize.simulation import Simulation
from tfstruct.quantize.twin import Twin
from tfstruct.reporting import carrying
from tfstruct.samples.for_model import samples_of
from tfstruct.terminal import Progress, Verbose, shows_progress, silent


@formerly(observer="calibrator")
@in_inference
@shows_progress
@checked
def correct_bias(
    model: keras.Model,
    data,
    scheme: Scheme | str | None = None,
    *,
    calibrator: str = "minmax",
    batch_size: int = 32,
    progress: Progress = silent,
    verbose: Verbose = "auto",
    report: Callable[[BiasCorrection], None] | None = None,
    open_layers: str | bool = "auto",
) -> keras.Model:
    """Shifts biases so that quantization leaves the mean of every channel unchanged.

    Layer after layer, in order of execution: with y what a layer makes before its activation in float, and y' what it
    makes in the quantized model whose biases before it are corrected already, `b' = b - (E[y'] - E[y])` by output
    channel, the means over samples and positions. Where a batch norm follows that the converter folds, its beta takes
    the shift; a layer without a bias gets one.

    Args:
        model: a model that can be traced, or a `Twin`; not changed.
        data: see `calibrate`; a few hundred samples, without labels.
        scheme: what the biases shall make up for: a precision, or a `Scheme`; by default that of the twin, or int8.
        calibrator: for the ranges of a model that is no twin.
        progress: called with (stage, layers done, layers in all).
        verbose: what is shown while it works, see `tfstruct.compress`.
        report: called with the shifts, and with the kernels whose bias was left alone, and why: `report=print`.
        open_layers: `"auto"` opens custom layers, so that biases inside are corrected too: they are opened in the new
            model. False: none. See `calibrate`.

    Returns:
        A new model; for a twin, a new twin of a new model with the same ranges.

    Source: Nagel et al. 2019, Data-free quantization through weight equalization and bias correction,
    arXiv:1906.04721, Sec. 4.2 and Appendix D.

    Example:
        >>> corrected = tfstruct.quantize.correct_bias(model, x)
        >>> np.array_equal(corrected.get_layer("hidden").kernel, model.get_layer("hidden").kernel)
        True
    """
    is_twin = isinstance(model, Twin)
    opened = open_by_itself(model, False if is_twin else open_layers)
    flat = samples_of(model, data).in_memory().inputs
    options = {"batch_size": batch_size, "open_layers": False}
    given = model if is_twin else calibrate(opened.model, (flat,), scheme, calibrator, **options)
    made = Twin(_with_biases(_Means(given.model, given.scheme)), given.scheme)
    means = _Means(made.model, given.scheme)
    for simulation in (made.simulation, means):
        simulation.assign(given.simulation.values())
    graph = means.rounding_points.graph
    wanted = moments(graph, (flat,), [means.last(op) for op in means.layers], batch_size)
    rows = []
    for done, op in enumerate(means.layers, 1):
        last = means.last(op)
        mean, deviation = wanted[id(last)]
        shift = mean - means.of(op, flat, batch_size)
        bias = last.beta if isinstance(last, layers.BatchNormalization) else last.bias
        bias.assign_add(shift.reshape(bias.shape).astype("float32"))
        rows.append(CorrectedBias.of(means.rounding_points.paths[id(op)], shift, deviation))
        progress("correct biases", done, len(means.layers))
    done = BiasCorrection(
        made.scheme.precision, tuple(rows), tuple(means.left), opened=opened.opened, opaque=opened.closed
    )
    if report is not None:
        report(done)
    return carrying(made if is_twin else made.model, done)


def _with_biases(means: "_Means") -> keras.Model:
    """A copy of the model in which each layer to be corrected has a bias (zero at first), or a batch norm with a
    beta."""
    remake = Remake(means.rounding_points.graph)
    made = {id(call.op): call.outputs[0].shape for call in means.rounding_points.graph.calls}
    for last in map(means.last, means.layers):
        if isinstance(last, layers.BatchNormalization):
            if not last.center:
                values = {k: v for k, v in norm_arrays(last).items() if k != "gamma" or last.scale}
                remake.replace(last, values, {"center": True})
        elif not last.use_bias:
            shape = made[id(last)]
            channels = shape[channels_axis(last, len(shape))]
            assert channels is not None  # a layer with a kernel knows how many it makes
            bias = np.zeros(channels)
            remake.replace(last, {**weights_of(last), "bias": bias}, {"use_bias": True})
    return remake.model()


class _Means(Simulation):
    """The mean, by channel, of what the layers of a quantized model compute before their activation.

    Attributes:
        layers: those whose bias can be corrected, in order of execution.
        left: (layer, why its bias is left alone), for the others that have a rounded kernel.
    """

    def __init__(self, model: keras.Model, scheme: Scheme):
        super().__init__(model, scheme)
        ops = {id(call.op): call.op for call in self.rounding_points.graph.calls}
        folded = Counter(id(norm) for norm in self.rounding_points.folds.values() if norm is not None)
        self.layers, self.left = [], []
        for key in (key for key in ops if key in self._grids):
            if not traits_of(ops[key]).contracts:
                self.left.append(
                    (self.rounding_points.paths[key], f"a {type(ops[key]).__name__} has no one bias by channel")
                )
            elif folded[id(self.rounding_points.folds[key])] > 1:
                self.left.append((self.rounding_points.paths[key], "its batch norm is behind other layers too"))
            else:
                self.layers.append(ops[key])
        self._sums: dict[str, list] = {}
        self._run = tf.function(self._summed, reduce_retracing=True)

    def last(self, op):
        """The layer, or the batch norm that the converter folds into it."""
        return self.rounding_points.folds.get(id(op)) or op

    def of(self, op, flat: list[np.ndarray], batch_size: int) -> np.ndarray:
        """Means of a layer, shape (channels,), over samples, positions and calls."""
        path, total, count = self.rounding_points.paths[id(op)], 0.0, 0.0
        for part in slices(len(flat[0]), batch_size):
            for rows, added in self._run([x[part] for x in flat])[path]:
                total, count = total + added.numpy().astype(np.float64), count + float(rows)
        return np.asarray(total / count)

    def _summed(self, inputs):
        self._sums = {}
        self(structured(self.rounding_points.graph, inputs), training=False)
        return self._sums

    def _route(self, training, path, op, call):
        routed = super()._route(training, path, op, call)
        if not any(op is one for one in self.layers):
            return routed
        before, norm = self.rounding_points.before.get(id(op)), self.rounding_points.folds.get(id(op))

        def summed(*args, **kwargs):
            with without_activation(op):
                if before is not None and traits_of(op).kernel == "separable":
                    z = self._separable(op, before, args[0], training)
                else:
                    z = self._with_weights(op, self._grids[id(op)], training, call, args, kwargs)
            if norm is not None:
                z = type(norm).call(norm, z, training=False)
            z = tf.cast(z, tf.float32)
            axis = channels_axis(op, z.shape.rank)
            rows = tf.cast(tf.size(z), tf.float32) / z.shape[axis]
            total = tf.reduce_sum(z, [i for i in range(z.shape.rank) if i != axis])
            self._sums.setdefault(path, []).append((rows, total))
            return routed(*args, **kwargs)

        return summed
