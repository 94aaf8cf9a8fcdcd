"""`MonteCarloDropout`: dropout in inference too, and the spread of the predictions that it makes."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from tfstruct.arguments import checked, is_count, require_count, require_number
from tfstruct.errors import ArgumentError, DataError, ModelError
from tfstruct.graph import rule
from tfstruct.graph.keras_model import require_model
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.rules.elementwise import alone
from tfstruct.graph.sizes import fixed_batch
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.layers.seeded import Seeded, require_seed
from tfstruct.samples import Samples
from tfstruct.samples.for_model import samples_of


@keras.saving.register_keras_serializable(package="tfstruct")
class MonteCarloDropout(Seeded, keras.layers.Dropout):
    """Dropout in training and in inference: each call of the model is a draw from its predictive distribution.

        y = x * m / (1 - rate),   m ~ Bernoulli(1 - rate)

    `predict_distribution` averages over draws. The only layer of `tfstruct.layers` that is not the identity in
    inference, so `model.evaluate` and `model.predict` are random with it. With `layer.active_in_inference = False` it
    is an ordinary dropout, and so it is in a `.tflite` file, which draws no random numbers: the file holds the network
    of mean weights, and is compared with that. `tfstruct.layers.finalize` puts a `keras.layers.Dropout` in its place,
    which `surgery` takes out.

    Args:
        rate: the share to drop, in [0, 1).
        noise_shape: of the mask, as `keras.layers.Dropout` has it.
        seed: of the draws.

    Raises:
        ArgumentError: `rate` is out of range.

    Source: Gal, Ghahramani, Dropout as a Bayesian approximation, arXiv:1506.02142, Sec. 4.

    Example:
        >>> layer = tfstruct.layers.MonteCarloDropout(0.5)
        >>> bool((layer(x).numpy() == 0).any())  # in inference too
        True
    """

    def __init__(self, rate: float, noise_shape=None, seed: int | None = None, **kwargs):
        if noise_shape is not None and not (
            isinstance(noise_shape, Sequence) and all(size is None or is_count(size) for size in noise_shape)
        ):
            raise ArgumentError(f"`noise_shape` must be a tuple of sizes, some None. Received: {noise_shape!r}.")
        super().__init__(require_number("rate", rate, least=0, below=1), noise_shape, require_seed(seed), **kwargs)
        self.active_in_inference = True

    def build(self, input_shape):
        if self.noise_shape is not None and len(self.noise_shape) != len(input_shape):
            raise ArgumentError(
                f"`noise_shape` must have {len(input_shape)} sizes, as the input {input_shape}. Received: "
                f"{self.noise_shape}."
            )
        super().build(input_shape)

    def call(self, inputs, training=False):
        return super().call(inputs, training=training or self.active_in_inference)

    def inference_layer(self) -> keras.layers.Layer:
        """`keras.layers.Dropout` of the same rate."""
        return keras.layers.Dropout(
            self.rate, self.noise_shape, self.seed, name=self.name, dtype=self.dtype_policy, trainable=self.trainable
        )


rule(MonteCarloDropout)(alone)


@dataclasses.dataclass(frozen=True)
class Distribution:
    """What several passes predict.

    Attributes:
        mean, variance: over the passes, in the outputs' shape and float64; lists or dicts where the model has several
            outputs. The variance is that of the passes (divided by their number).
        passes: how many.
    """

    mean: object
    variance: object
    passes: int


@checked
def predict_distribution(model: keras.Model, x, passes: int = 20, batch_size: int = 32) -> Distribution:
    """Mean and variance of a model's predictions over several passes, each with dropout drawn anew.

        mean = sum of y_t / T,   variance = sum of (y_t - mean)^2 / T   for passes t = 1 ... T

    Args:
        model: with at least one `MonteCarloDropout`, also in nested models.
        x: see `tfstruct.samples`; the same in every pass, so nothing that shuffles. Labels are not looked at.
        passes: T, 2 or more.
        batch_size: of the predictions.

    Returns:
        `Distribution`: `.mean` and `.variance`, arrays in the shape of the model's output.

    Raises:
        ModelError: no `MonteCarloDropout` of the model is active, so all passes would be the same.
        ArgumentError: fewer than 2 passes.

    Source: Eq. 6 and 7, arXiv:1506.02142, without the data's own noise 1 / tau.

    Example:
        >>> drop = tfstruct.layers.MonteCarloDropout(0.5)
        >>> found = tfstruct.layers.predict_distribution(keras.Sequential([keras.Input((8,)), drop]), x, passes=4)
        >>> found.mean.shape, bool((found.variance >= 0).all())
        ((64, 8), True)
    """
    require_count("passes", passes, least=2)  # one has no variance
    require_model(model)
    found = [layer for layer in all_layers(model) if isinstance(layer, MonteCarloDropout)]
    if not any(layer.active_in_inference and layer.rate for layer in found):
        raise ModelError(
            f"`{model.name}` has no active MonteCarloDropout, so every pass would be the same. Put one before the last "
            "layers."
        )
    samples, size = samples_of(model, x), fixed_batch(model)
    if not samples.reiterable:
        samples = samples_of(model, (samples.in_memory().inputs,))
    mean = squares = None
    with states_kept(model):
        for count in range(1, passes + 1):
            with states_kept(model, seeds=False):  # every pass begins with the same, and draws anew
                y = _predicted(model, samples, size, batch_size)
            y = keras.tree.map_structure(lambda v: np.asarray(v, np.float64), y)
            if mean is None:
                mean, squares = y, keras.tree.map_structure(np.zeros_like, y)
                continue
            # Welford's update: no loss of digits where the variance is small.
            before = mean
            mean = keras.tree.map_structure(lambda m, v, n=count: m + (v - m) / n, mean, y)
            squares = keras.tree.map_structure(lambda s, v, m, b: s + (v - m) * (v - b), squares, y, mean, before)
    return Distribution(mean, keras.tree.map_structure(lambda s: s / passes, squares), passes)


def _predicted(model: keras.Model, samples: Samples, fixed: int | None, batch_size: int):
    parts, count = [], 0
    for batch in samples.batches(fixed or batch_size):
        count += batch.size
        if fixed is not None and batch.size != fixed:
            raise DataError(
                f"`{model.name}` fixes its batch at {fixed}: give a multiple of it. Received: {count} samples."
            )
        parts.append(model.predict_on_batch(samples.ports.arranged(batch.inputs)))
    return keras.tree.map_structure(lambda *values: np.concatenate(values), *parts)
