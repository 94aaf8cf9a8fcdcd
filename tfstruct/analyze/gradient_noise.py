"""The gradient noise scale: how large a batch is worth its computation."""

import dataclasses
import itertools
import math

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze.inference import in_inference
from tfstruct.analyze.losses import loss_function
from tfstruct.errors import ArgumentError, DataError, ModelError
from tfstruct.graph.keras_model import require_model
from tfstruct.reporting import Report, Sheet
from tfstruct.samples.for_model import samples_of


@dataclasses.dataclass(frozen=True)
class GradientNoise(Report):
    """The noise of a gradient against its size, both estimated without bias.

    Attributes:
        scale: `variance / squared_norm`, in samples: far below it a twice as large batch halves the steps to a loss,
            far above it hardly saves any. Infinite where the gradient is lost in its noise.
        variance: tr(Sigma), the trace of the covariance of one sample's gradient.
        squared_norm: |G|^2 of the gradient over infinitely many samples; an estimate, which may fall below 0.
        standard_error: of `scale`, by the jackknife; it says nothing where it is near `scale` itself.
        samples: how many were used.
        batch_size: of the batches the gradients were taken from.
    """

    scale: float
    variance: float
    squared_norm: float
    standard_error: float
    samples: int
    batch_size: int

    def sheet(self) -> Sheet:
        names = {
            "scale": "gradient noise scale, samples", "standard_error": "its standard error", "variance": "tr(Sigma)",
            "squared_norm": "|G|^2", "samples": "samples used", "batch_size": "batch size",
        }  # fmt: skip
        rows = [(words, getattr(self, name)) for name, words in names.items()]
        return Sheet(str(self), ("figure", ("value", ".3g")), rows)

    def __str__(self) -> str:
        parts = (
            f"tr(Sigma) {self.variance:.3g}, |G|^2 {self.squared_norm:.3g}, from {self.samples} samples in batches of "
            f"{self.batch_size}"
        )
        if math.isinf(self.scale):
            return f"gradient noise scale: not found, the gradient is lost in its noise; give more samples ({parts})"
        error = f" +- {self.standard_error:.2g}" if math.isfinite(self.standard_error) else ""
        return f"gradient noise scale: {self.scale:.3g}{error} samples ({parts})"


@in_inference
def gradient_noise_scale(
    model,
    data,
    labels=None,
    *,
    loss=None,
    batch_size: int = 8,
    groups: int = 8,
    training: bool = False,
) -> GradientNoise:
    """The batch size up to which larger batches pay, from gradients at the model's present weights.

    `scale = tr(Sigma) / |G|^2`, the simple noise scale. With m gradients g_i of batches of b samples and their mean
    g, the gradient of B = m b samples, `E|g_i|^2 = |G|^2 + tr(Sigma) / b` and `E|g|^2 = |G|^2 + tr(Sigma) / B`, so

        |G|^2     = (B |g|^2 - b mean|g_i|^2) / (B - b)
        tr(Sigma) = (mean|g_i|^2 - |g|^2) / (1/b - 1/B)

    without bias; their ratio has a small one, of the order of its variance. McCandlish et al. 2018, arXiv:1812.06162,
    equation 2.9 and appendix A.1. The standard error is that of the jackknife over `groups` sets of batches.

    The scale belongs to one moment of the training: it commonly grows by orders of magnitude while the loss falls.

    Args:
        model: any Keras model; its weights and statistics are as before afterwards.
        data, labels: samples with labels, see `tfstruct.samples`. A few times `scale` samples are needed.
        loss: by default the one the model is compiled with. The model's regularization losses are part of G.
        batch_size: b. Samples beyond the last whole batch are left out.
        groups: of the jackknife; as many copies of the gradient are held in memory.
        training: run the model as in training: with dropout, and batch norm over these batches, which is the noise
            that training has but depends on b. By default the samples are independent, as the formula asks.

    Returns:
        `GradientNoise`: the scale, in samples, and the two figures that it is the ratio of.

    Raises:
        ArgumentError: an option out of its range.
        DataError: no labels, too few samples, or no loss.
        ModelError: no trainable weights.

    Example:
        >>> noise = tfstruct.analyze.gradient_noise_scale(model, x, y, batch_size=4)
        >>> noise.samples, bool(noise.scale > 1)
        (64, True)
    """
    require_model(model)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ArgumentError(f"`batch_size` must be an integer of at least 1. Received: {batch_size}.")
    if not isinstance(groups, int) or groups < 2:
        raise ArgumentError(f"`groups` must be an integer of at least 2. Received: {groups}.")
    samples = samples_of(model, data, labels, need="gradient_noise_scale needs labels")
    batches = samples.batches(batch_size)
    first = next(batches)
    function = loss_function(model, loss, "gradient_noise_scale")
    if not model.built:
        model(samples.ports.arranged([x[:1] for x in first.inputs]))
    if not model.trainable_variables:
        raise ModelError(f"`{model.name}` has no trainable weights.")
    gradient = _gradient(model, function, training)
    kept = [(v, keras.ops.convert_to_numpy(v)) for v in model.non_trainable_variables] if training else []
    sums, squares, sizes, count = [0.0] * groups, np.zeros(groups), np.zeros(groups, int), 0
    try:
        for i, batch in enumerate(itertools.chain([first], batches)):
            count += batch.size
            if batch.size < batch_size:
                continue
            x = samples.ports.arranged(batch.inputs)
            flat = gradient(*keras.tree.map_structure(tf.convert_to_tensor, (x, batch.labels)))
            group = i % groups
            sums[group] = sums[group] + flat.numpy().astype(np.float64)
            squares[group] += float(np.sum(np.square(flat.numpy(), dtype=np.float64)))
            sizes[group] += 1
    finally:
        for variable, value in kept:
            variable.assign(value)
    if sizes.sum() < groups:
        raise DataError(
            f"Expected at least {groups * batch_size} samples, {groups} batches of {batch_size}. Received: {count}."
        )
    total = np.sum(sums, axis=0)
    norm, variance = _estimates(total, squares.sum(), sizes.sum(), batch_size)
    left_out = np.array(
        [
            _ratio(*_estimates(total - sums[j], squares.sum() - squares[j], sizes.sum() - sizes[j], batch_size))
            for j in range(groups)
        ]
    )
    error = math.inf
    if np.isfinite(left_out).all():
        error = math.sqrt((groups - 1) / groups * np.sum((left_out - np.mean(left_out)) ** 2))
    return GradientNoise(_ratio(norm, variance), variance, norm, error, int(sizes.sum()) * batch_size, batch_size)


def _estimates(total: np.ndarray, squares: float, count: int, small: int) -> tuple[float, float]:
    """|G|^2 and tr(Sigma), from the sum of `count` gradients of `small` samples and of their squared norms."""
    if count < 2:
        return math.nan, math.nan
    big = count * small
    of_mean, mean_of = float(np.sum((total / count) ** 2)), squares / count
    return (big * of_mean - small * mean_of) / (big - small), (mean_of - of_mean) / (1 / small - 1 / big)


def _ratio(norm: float, variance: float) -> float:
    return variance / norm if norm > 0 else math.inf


def _gradient(model, function, training: bool):
    """`(x, y) -> the gradient of the loss over all trainable weights as one vector`."""
    strategy = getattr(model, "distribute_strategy", tf.distribute.get_strategy())

    def one(x, y):
        with tf.GradientTape() as tape:
            value = tf.cast(function(y, model(x, training=training)), tf.float32)
            value += sum(tf.cast(extra, tf.float32) for extra in model.losses)
        gradients = tape.gradient(value, model.trainable_variables, unconnected_gradients="zero")
        return tf.concat([tf.reshape(tf.cast(tf.convert_to_tensor(g), tf.float32), [-1]) for g in gradients], 0)

    @tf.function(reduce_retracing=True)
    def whole(x, y):
        # Each replica takes the whole batch, as mirrored weights have gradients only inside of one.
        return strategy.experimental_local_results(strategy.run(one, (x, y)))[0]

    return whole
