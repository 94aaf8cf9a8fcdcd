"""`calibrate`: ranges of activations from data, for a model that was trained in float."""

import warnings

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze.data_criteria import structured
from tfstruct.analyze.inference import in_inference
from tfstruct.arguments import checked, require_one_of
from tfstruct.errors import DataError
from tfstruct.former_names import formerly
from tfstruct.graph.opening import open_by_itself
from tfstruct.precisions import CALIBRATORS
from tfstruct.quantize.calibrators import Calibrator, calibrator_of, usable
from tfstruct.quantize.grids import stored
from tfstruct.quantize.integer_kernels import norm_constants
from tfstruct.quantize.quantization_report import quantization_report
from tfstruct.quantize.rounding_points import RoundingPoint
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
def calibrate(
    model: keras.Model,
    data,
    scheme: Scheme | str | None = None,
    calibrator: str = "minmax",
    *,
    percentile: float = 99.99,
    batch_size: int = 32,
    progress: Progress = silent,
    verbose: Verbose = "auto",
    open_layers: str | bool = "auto",
) -> Twin:
    """Builds a twin of a trained model whose activation ranges are measured on data; no weight changes.

    The data runs through the model once, in float and inference; at every place where the file has integers a
    calibrator of `tfstruct.quantize.calibrators` follows the values. `to_tflite(calibrate(model, data))` writes a file
    with exactly these ranges.

    Args:
        model: any model that can be traced, or a `Twin`, whose model gets a new twin with its scheme and steps.
        data: a few hundred samples as in training, see `tfstruct.samples`; they are streamed. Labels are left aside.
        scheme: a precision, or a `Scheme`; by default that of the twin, or int8.
        calibrator: `"minmax"`, `"moving_average"` (of each sample's ends), `"percentile"`, `"mse"` or `"entropy"`.
        percentile: share of the values, in percent, that `calibrator="percentile"` keeps on either side.
        progress: called with (stage, samples done, samples in all or None where only reading tells).
        verbose: what is shown while it works, see `tfstruct.compress`.
        open_layers: `"auto"` opens custom layers, so that the values inside are rounded as in the file
            (`tfstruct.surgery.open_layers`); the report says which, and why others stay closed. False: none.

    Returns:
        `Twin`: it computes as the file will, and shares the model's weights. Its `model` is the opened one.

    Raises:
        ModelError: the model's graph is hidden in a `call` of its own.
        DataError: no data, data that do not fit, or values that are not finite.

    Example:
        >>> twin = tfstruct.quantize.calibrate(model, x)
        >>> float(np.abs(twin(x) - model(x)).max()) < 0.1
        True
    """
    require_one_of("calibrator", calibrator, CALIBRATORS)
    twin = model if isinstance(model, Twin) else None
    if twin is not None:
        model, scheme = twin.model, twin.scheme if scheme is None else scheme
    opened = open_by_itself(model, False if twin is not None else open_layers, composites=True)
    model = opened.model
    made = Twin(model, "int8" if scheme is None else scheme)
    if twin is not None and made.scheme == twin.scheme:
        made.simulation.assign(twin.simulation.values())  # steps of its kernels
    values = Values(model, made.scheme)
    found = _observed(values, data, calibrator, percentile, batch_size, progress)
    for group, ends in found.items():
        made.simulation.bounds[group].set(ends[0], ends[1], like=values.bounds[group])
    report = quantization_report(made.simulation, opened)
    for layer, guess in made.simulation.taken_for_masks():
        warnings.warn(f"{layer}: {guess}. Write the mask as operations of the model.", stacklevel=2)
    return carrying(made, report)


def _observed(
    values: "Values", data, name: str, percentile: float, batch_size: int, progress: Progress
) -> dict[str, tuple[float, float]]:
    """Group -> (low, high), where values were seen."""
    samples = samples_of(values.rounding_points.graph.model, data)
    calibrators: dict[str, Calibrator] = {}
    done = 0
    for batch in samples.batches(batch_size):
        for group, seen in values.of(batch.inputs).items():
            point = values.groups[group]
            make = calibrator_of(name, percentile, values.activation_bits(point) or 8)
            one = calibrators.setdefault(group, make())
            for value in seen:
                if not np.isfinite(value).all():
                    raise DataError(
                        f"The values of `{point.path}` are not finite for the samples {done} to {done + batch.size}."
                    )
                # Sample by sample, as ranges of a file are found, where the first axis is that of the samples.
                for sample in value if value.shape[:1] == (batch.size,) else [value]:
                    one.update(sample)
        done += batch.size
        progress("calibrate", done, samples.count)
    found = {group: usable(*one.range()) for group, one in calibrators.items()}
    return {group: ends for group, ends in found.items() if ends is not None}


class Values(Simulation):
    """The float values of a model at every rounding point."""

    def __init__(self, model: keras.Model, scheme: Scheme):
        super().__init__(model, scheme)
        self.integers.used = False
        self._seen: dict[str, list] = {}
        self._run = tf.function(self._values, reduce_retracing=True)

    def of(self, inputs: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
        """Group -> the values at each of its rounding points, in order of execution."""
        return keras.tree.map_structure(lambda x: x.numpy(), self._run(inputs))

    def _values(self, inputs):
        self._seen = {}
        self(structured(self.rounding_points.graph, inputs), training=False)
        return self._seen

    def _quantized_kernel(self, op, grid, training, ahead=1.0):
        return stored(grid) * ahead

    def _of_constant(self, op, quantized, plain):
        return plain

    def _batch_norm(self, op, at, call):
        product, plain = self.rounding_points.products.get(id(op)), super()._batch_norm(op, at, call)
        if product is None:
            return plain

        def observed(x, **kwargs):
            self._quantized(product, tf.cast(x, tf.float32) * norm_constants(op, x)[0], False)
            return plain(x, **kwargs)

        return observed

    def _quantized(self, point: RoundingPoint, x, training):
        if point.observes and self.groups[point.group].fixed is None and tf.as_dtype(x.dtype).is_floating:
            seen = self.bounds[point.group].looked_at(tf.cast(x, tf.float32))
            self._seen.setdefault(point.group, []).append(seen)
        return x
