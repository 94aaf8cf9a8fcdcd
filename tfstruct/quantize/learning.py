"""Quantization steps and ranges that learn by a rule of their own, within the forward and backward pass."""

from collections.abc import Callable

import keras
import tensorflow as tf


class Learned:
    """A parameter p of rounding that learns without being a weight of the model.

    So no optimizer, loop or file has to know of it. The backward pass notes the gradient dL/dp; the next forward pass
    of training makes a step with it: with g = p dL/dp, the gradient of log|p|, v <- 0.99 v + 0.01 g^2 (v = g^2 at
    first) and log|p| <- log|p| - learning_rate g / sqrt(v), element by element. That is RMSprop, for which the scale
    of the loss does not matter. p keeps its sign, and zero stays zero. Of several replicas each makes its own step, and
    p is their mean.
    """

    def __init__(self, variable: keras.Variable, learning_rate: float, make: Callable[..., keras.Variable]):
        self.variable, self.learning_rate = variable, learning_rate
        zeros = tf.zeros(variable.shape)
        self.square = make(zeros, name=f"{variable.name}_square")
        # Replicas run their backward passes in orders of their own, so nothing may wait for another one there.
        self.gradient = make(zeros, name=f"{variable.name}_gradient", synchronization="on_read")

    @property
    def variables(self) -> list[keras.Variable]:
        return [self.variable, self.square, self.gradient]

    def note(self, gradient) -> None:
        """Keeps dL/dp for the next step; a number that is not finite counts as zero."""
        self.gradient.assign(tf.where(tf.math.is_finite(gradient), gradient, 0.0))

    def step(self, on) -> None:
        """Makes a step if `on` is 1; the stored gradient is reset in any case."""
        p, v = self.variable.value, self.square.value
        g = p * self.gradient.value * on
        square = tf.square(g)
        v = tf.where(v > 0, tf.where(square > 0, 0.99 * v + 0.01 * square, v), square)
        self.square.assign(v)
        self.variable.assign(p * tf.exp(-self.learning_rate * tf.math.divide_no_nan(g, tf.sqrt(v))))
        self.gradient.assign(tf.zeros_like(g))
