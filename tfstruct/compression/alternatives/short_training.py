"""Adam for some steps: one operation a variable, where `keras.optimizers.Adam` has a dozen. A network that is trained
for so few steps takes longer to trace than to train."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

_BETAS = 0.9, 0.999
_EPSILON = 1e-7


class ShortAdam:
    """Adam (Kingma and Ba, arXiv:1412.6980, section 2, with the bias corrections in the rate), the learning rate
    falling to 0 as a half cosine over a known number of steps; the same steps as `keras.optimizers.Adam` with
    `CosineDecay`.

    Args:
        variables: to be trained; their constraints hold after each step.
        learning_rate: of the first step.
        steps: at which the rate is 0.

    Example:
        >>> import keras, tensorflow as tf
        >>> from tfstruct.compression.alternatives.short_training import ShortAdam
        >>> w = keras.Variable([1.0])
        >>> ShortAdam([w], 0.1, steps=4).apply([tf.constant([2.0])])
        >>> w.numpy().round(3).tolist()
        [0.9]
    """

    def __init__(self, variables: Sequence[keras.Variable], learning_rate: float, steps: int):
        self._variables, self._rate, self._steps = list(variables), learning_rate, steps
        # In 16 bits 0.999 is 1: such variables are trained in float32 and rounded after each step.
        self._trained = [
            v.value if v.dtype in ("float32", "float64") else tf.Variable(tf.cast(v.value, "float32"))
            for v in self._variables
        ]
        self._moments = [[tf.Variable(tf.zeros_like(v)) for _ in _BETAS] for v in self._trained]
        self._done = tf.Variable(0.0)

    def apply(self, gradients: Sequence) -> None:
        """A step; within a `tf.function` too."""
        share = tf.minimum(self._done / self._steps, 1.0)
        rate = self._rate * 0.5 * (1 + tf.cos(math.pi * share))
        self._done.assign_add(1.0)
        first, second = (beta**self._done for beta in _BETAS)
        for variable, trained, moments, gradient in zip(
            self._variables, self._trained, self._moments, gradients, strict=True
        ):
            (mean, square), dtype = moments, trained.dtype
            tf.raw_ops.ResourceApplyAdam(
                var=trained.handle, m=mean.handle, v=square.handle, grad=tf.cast(tf.convert_to_tensor(gradient), dtype),
                beta1_power=tf.cast(first, dtype), beta2_power=tf.cast(second, dtype), lr=tf.cast(rate, dtype),
                beta1=tf.constant(_BETAS[0], dtype), beta2=tf.constant(_BETAS[1], dtype),
                epsilon=tf.constant(_EPSILON, dtype),
            )  # fmt: skip
            if trained is not variable.value:
                variable.assign(trained)
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))
