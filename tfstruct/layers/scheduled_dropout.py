"""`ScheduledDropout`: dropout whose rate depends on the step."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfstruct.arguments import require_number
from tfstruct.errors import ArgumentError
from tfstruct.graph import training_only
from tfstruct.layers.seeded import Seeded, require_seed


@keras.saving.register_keras_serializable(package="tfstruct")
class ScheduledDropout(Seeded, keras.layers.Layer):
    """Dropout at the rate `rate(step)`; the identity in inference.

        y = x * m / (1 - rate(step)),   m ~ Bernoulli(1 - rate(step)) for each entry;   step <- step + 1

    The step counts the layer's own calls in training, from 0, in a weight that is saved with the model: `layer.step`.
    It is not the optimizer's count where the layer is called several times a step, or gradients are accumulated.

    Args:
        rate: step -> rate: a `keras.optimizers.schedules.LearningRateSchedule` (of `tfstruct.schedules` also), or any
            function of a float32 tensor made of `keras.ops`; a function needs
            `keras.saving.register_keras_serializable` to be saved. Values outside of [0, 1] count as the nearest one
            inside. A number is a constant rate.
        seed: of the draws.

    Raises:
        ArgumentError: `rate` is neither, as ratios of `tfstruct.schedules`, which are functions of Python numbers; or
            it is no single number in [0, 1] at step 0.

    Source: Morerio et al., Curriculum dropout, arXiv:1703.06229, where the rate rises from 0.

    Example:
        >>> rising = keras.optimizers.schedules.PolynomialDecay(0.0, 100, end_learning_rate=0.5)
        >>> layer = tfstruct.layers.ScheduledDropout(rising)
        >>> float(layer.rate_at(0)), float(layer.rate_at(50)), float(layer.rate_at(100))
        (0.0, 0.25, 0.5)
    """

    def __init__(self, rate: Callable | float, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if not callable(rate):
            rate = require_number("rate", rate, least=0, most=1)
        else:
            first = np.asarray(ops.convert_to_numpy(rate(ops.convert_to_tensor(0.0, "float32"))))
            if first.shape != () or not 0 <= first <= 1:
                raise ArgumentError(f"`rate` must give one number in [0, 1] for each step. At step 0 it gave {first}.")
            _require_graph(rate)
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(require_seed(seed))
        self.supports_masking = True

    def build(self, input_shape=None):
        self.step = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            aggregation="only_first_replica",
            name="step",
        )

    def rate_at(self, step):
        """The rate of a step, as a float32 tensor in [0, 1]."""
        rate = self.rate(ops.cast(step, "float32")) if callable(self.rate) else self.rate
        return ops.clip(ops.cast(rate, "float32"), 0.0, 1.0)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        rate = self.rate_at(self.step)
        self.step.assign_add(1)
        draws = keras.random.uniform(ops.shape(inputs), dtype="float32", seed=self.seed_generator)
        # At a rate of 1 nothing stays, so the divisor does not matter.
        mask = ops.where(draws >= rate, 1 / ops.maximum(1 - rate, 1e-6), 0.0)
        return inputs * ops.cast(mask, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        rate = keras.saving.serialize_keras_object(self.rate) if callable(self.rate) else self.rate
        return {**super().get_config(), "rate": rate, "seed": self.seed}

    @classmethod
    def from_config(cls, config):
        rate = config["rate"]
        if not isinstance(rate, float):
            rate = keras.saving.deserialize_keras_object(rate)
        return cls(**{**config, "rate": rate})


training_only(ScheduledDropout)


def _require_graph(rate: Callable) -> None:
    """Refuses a function that works on numbers alone, before it fails in the middle of `fit`."""
    try:
        tf.function(rate, autograph=False).get_concrete_function(tf.TensorSpec((), "float32"))
    except Exception as error:
        raise ArgumentError(
            "`rate` must be a function of a tensor, made of `keras.ops`, or a LearningRateSchedule such as "
            "keras.optimizers.schedules.PolynomialDecay(0.0, steps, end_learning_rate=0.5). Received one that fails "
            f"where a graph is traced: {rate!r}."
        ) from error
