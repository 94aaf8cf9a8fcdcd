"""Rounding up or down as something that can be learned."""

import keras
import numpy as np
import tensorflow as tf

from tfstruct.quantize.grids import LearnedGrid

_LOW, _HIGH = -0.1, 1.1  # gamma and zeta: the sigmoid is stretched to them and cut at 0 and 1


class SoftKernel:
    """A kernel W' = s clip(floor(W / s) + h(V), low, high) whose V is learned.

    `h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)` is between rounding down (0) and up (1); at first it is the
    fraction of W / s, so that W' = W but for what is clipped. Source: Nagel et al. 2020, Up or down? Adaptive rounding
    for post-training quantization, arXiv:2004.10568, Eq. 22 to 24.

    Args:
        grid: the integers and steps; the kernel's weight is read now.
        g: the factor of the batch norm behind it, where one step is that of the folded kernel.

    Attributes:
        v: V, shape (everything else, output channels).
    """

    def __init__(self, grid: LearnedGrid, g=1.0):
        self.grid = grid
        moved, self.factor = grid.seen(grid.kernel.variable.value, g)
        self.step = tf.constant(grid.learned.variable.value)
        steps = np.clip(moved / self.step, grid.low, grid.high)
        self.down = np.minimum(np.floor(steps), grid.high - 1)
        fraction = np.clip(steps - self.down, 1e-4, 1 - 1e-4)
        self.nearest = np.clip(np.round(steps), grid.low, grid.high)
        self.v = keras.Variable(-np.log((_HIGH - _LOW) / (fraction - _LOW) - 1), dtype="float32")

    def _up(self):
        return tf.clip_by_value(tf.sigmoid(self.v.value) * (_HIGH - _LOW) + _LOW, 0.0, 1.0)

    def soft(self):
        """W', shaped like the kernel."""
        return self.grid.back((self.down + self._up()) * self.step / self.factor)

    def undecided(self, beta):
        """The sum of 1 - |2 h(V) - 1|^beta, which is 0 where all weights are up or down (Eq. 24)."""
        return tf.reduce_sum(1.0 - tf.pow(tf.abs(2.0 * self._up() - 1.0), beta))

    def settle(self) -> int:
        """Puts the kernel's weight on the grid; the number of integers that are not the nearest."""
        codes = self.down + (self._up().numpy() >= 0.5)
        self._assign(codes)
        return int((codes != self.nearest).sum())

    def settle_nearest(self) -> None:
        """Puts the kernel's weight on the nearest integers."""
        self._assign(self.nearest)

    def _assign(self, codes) -> None:
        self.grid.kernel.variable.assign(self.grid.back(tf.constant(codes, tf.float32) * self.step / self.factor))
