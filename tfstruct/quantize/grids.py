"""Fake quantization of kernels: an integer times a step, in float, with straight-through gradients."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfstruct.graph.kernels import Kernel
from tfstruct.keras_internals.layer_parts import stored_precision
from tfstruct.precisions import PRECISIONS
from tfstruct.quantize.fake import divided
from tfstruct.quantize.learning import Learned
from tfstruct.quantize.rounding import symmetric_scale
from tfstruct.quantize.scheme import Scheme

_TINY = 1e-9
_LEAST = 1e-30  # of a factor


class Grid:
    """Rounds a kernel to s q, one step s for each output channel, tied as `per` says; a subclass has s and q.

    Args:
        kernel: the weight, and how to see it as (taps, inputs, outputs).
        bits: what an integer needs.
        stored_bits: what it has in the file.
        per: see `Scheme`. With `"tensor"`, s and q are those of the kernel times |g|, the factor of the batch norm
            behind it; of the kernel itself the step is s / |g|.

    Attributes:
        plain: whether a file finds these integers by itself, from the weights as they are.
        nearest: whether, with s known, q is found by rounding w / s to what the file can hold.
        variables: of the step, where it learns.
    """

    plain, nearest = False, True

    def __init__(self, kernel: Kernel, bits: int, stored_bits: int, per: str = "channel"):
        self.kernel, self.bits, self.stored_bits, self.per = kernel, bits, stored_bits, per
        self.variables: list[keras.Variable] = []

    def fake(self, w, g=1.0, learning=None):
        """s q, with gradients.

        Args:
            w: the kernel's value.
            g: (outputs,) or one number.
            learning: 1 or 0, in training, where the step shall learn from this call; None: it does not.
        """
        moved, factor = self.seen(w, g)
        s = tf.stop_gradient(self._step(moved))
        return self.back(tf.grad_pass_through(lambda m: self._codes(m, s) * s)(moved) / factor)

    def integers(self, w, g=1.0):
        """(q, s): the integers as floats, in the shape of the kernel, and the step of each output channel."""
        moved, factor = self.seen(w, g)
        s = self._step(moved)
        return self.back(self._codes(moved, s)), s / factor

    def folded(self, w, g=1.0, least=0.0):
        """(q, s) of the kernel times |g|, as in a file in which the batch norm is folded into it.

        Args:
            least: what s is at least, (outputs,) or one number, so that the bias fits (`biases.limits_that_fit`).
        """
        g = tf.maximum(tf.abs(g), _LEAST)
        q, s = self._folded(w, g)
        # A file takes the step from the weights that are left, and the least there is where none is.
        empty = tf.reduce_max(tf.abs(self._moved(q)), axis=0) == 0
        s = tf.where(empty, divided(tf.constant(_TINY), self.largest), s)
        raised = tf.maximum(s, divided(self.largest * least, self.largest))
        # What the file rounds where it has a wider step: the weights themselves, or the few values they became.
        product = self._moved(w) * g if self.nearest else self._moved(q) * s
        again = tf.clip_by_value(tf.round(product / raised), -self.largest, self.largest)
        return self.back(tf.where(raised > s, again, self._moved(q))), raised

    def _folded(self, w, g):
        q, s = self.integers(w, g)
        return q, self._of_product(s, g)

    def _of_product(self, s, g):
        """The step of the kernel times g, which the file derives from the largest weight."""
        return divided(self.largest * s * g, self.largest)

    @property
    def largest(self) -> int:
        """The largest integer that the file can hold."""
        return 2 ** (self.stored_bits - 1) - 1

    def limits(self, g=1.0) -> np.ndarray:
        """The magnitude of the largest integer by output channel, for `Recipe.weight_limits`."""
        return self.largest * np.asarray(self.integers(self.kernel.variable.value, g)[1])

    def quantized(self, g=1.0) -> np.ndarray:
        """s q of the present kernel, in its shape."""
        return np.asarray(self.fake(self.kernel.variable.value, g))

    def _moved(self, w):
        """The kernel as (everything else, output channels), float32."""
        return tf.reshape(tf.transpose(tf.cast(w, tf.float32), self.kernel.order), (-1, self.kernel.shape[-1]))

    def seen(self, w, g=1.0):
        """The kernel as (everything else, output channels), and the factor that is in it."""
        factor = tf.maximum(tf.abs(g), _TINY) if self.per == "tensor" else 1.0
        return self._moved(w) * factor, factor

    def back(self, moved):
        """Reshapes to the kernel's shape."""
        shape = [self.kernel.variable.shape[i] for i in self.kernel.order]
        return tf.transpose(tf.reshape(moved, shape), np.argsort(self.kernel.order))

    def _tied(self, by_channel, reduce: Callable):
        if self.per != "channel":
            by_channel = tf.fill(tf.shape(by_channel), reduce(by_channel))
        return tf.maximum(by_channel, _TINY)  # a channel of zeros stays zero

    def _step(self, moved):
        raise NotImplementedError

    def _codes(self, moved, s):
        raise NotImplementedError


class LargestGrid(Grid):
    """s = max|w| / Q, q = clip(round(w / s), -Q, Q), Q = 2^(bits-1) - 1."""

    def __init__(self, kernel: Kernel, bits: int, stored_bits: int, per: str = "channel"):
        super().__init__(kernel, bits, stored_bits, per)
        self.top = 2 ** (bits - 1) - 1
        self.nearest = bits == stored_bits  # fewer values than the file has places for are not what it would round to
        self.plain = per == "channel" and self.nearest

    def fake(self, w, g=1.0, learning=None):
        moved, factor = self.seen(w, g)
        s = tf.stop_gradient(self._step(moved))
        # Nothing to clip: no weight is beyond the largest. TensorFlow's operator for this goes through a kernel column
        # by column, which takes ten times as long where there are a thousand.
        return self.back(tf.grad_pass_through(lambda m: tf.round(m / s) * s)(moved) / factor)

    def _folded(self, w, g):
        moved = self._moved(w)
        # A step by layer is that of the kernel without the factor.
        s = self._of_product(self._step(moved), g) if self.per == "layer" else self._step(moved * g)
        return self.back(self._codes(moved * g, s)), s  # the file rounds the product

    def _limit(self, moved):
        return self._tied(tf.reduce_max(tf.abs(moved), axis=0), tf.reduce_max)

    def _step(self, moved):
        return divided(self._limit(moved), self.top)

    def _codes(self, moved, s):
        return tf.clip_by_value(tf.round(moved / s), -self.top, self.top)


class FewValuesGrid(Grid):
    """Two to four values; the step is a mean of the weights.

    - `"binary"`: q = sign(w), s = mean|w| (XNOR-Net, Eq. 6, arXiv:1603.05279).
    - `"ternary"`: q = sign(w) where |w| > t = 0.7 mean|w|, else 0; s = mean|w| over |w| > t (TWN, Eq. 5 and 6,
      arXiv:1605.04711).
    - `"int2"`: q = clip(round(w / s), -2, 1), s = 2 mean|w|.
    """

    nearest = False

    def __init__(self, kernel: Kernel, precision: str, stored_bits: int, per: str = "channel"):
        super().__init__(kernel, 1 if precision == "binary" else 2, stored_bits, per)
        self.precision = precision

    def _step(self, moved):
        size = tf.abs(moved)
        if self.precision != "ternary":
            mean = self._tied(tf.reduce_mean(size, axis=0), tf.reduce_mean)
            return 2 * mean if self.precision == "int2" else mean
        over = tf.cast(size > self._threshold(moved), tf.float32)
        kept = self._tied(tf.reduce_sum(size * over, axis=0), tf.reduce_sum)
        return kept / self._tied(tf.reduce_sum(over, axis=0), tf.reduce_sum)

    def _threshold(self, moved):
        return 0.7 * self._tied(tf.reduce_mean(tf.abs(moved), axis=0), tf.reduce_mean)

    def _codes(self, moved, s):
        if self.precision == "int2":
            return tf.clip_by_value(tf.round(moved / s), -2, 1)
        if self.precision == "binary":
            return tf.where(moved < 0, -1.0, 1.0)
        return tf.sign(moved) * tf.cast(tf.abs(moved) > self._threshold(moved), tf.float32)


class LearnedGrid(Grid):
    """A grid whose step is learned: q = clip(round(w / s), low, high), or sign(w) in 1 bit.

    dL/ds = sum dL/dw' (q - w / s) over the weights inside, dL/dw' q over those that are clipped, divided by
    sqrt(n high) for n weights (LSQ, Eq. 3 and section 2.2, arXiv:1902.08153); the gradient of a weight is one inside
    and zero where it is clipped. s starts where the squared error of the weights is least, with fewer than 4 bits at
    2 mean|w| / sqrt(high), as there.

    Args:
        low, high: the integers; (-1, 1) without 0 where `signs`.
        make: makes a variable.
        learning_rate: see `Learned`.
        g: the factor of the batch norm at the start.
    """

    def __init__(
        self, kernel, low: int, high: int, stored_bits: int, per: str, signs: bool, make, learning_rate: float, g=1.0
    ):
        super().__init__(kernel, 1 if signs else high.bit_length() + 1, stored_bits, per)
        self.low, self.high, self.signs = low, high, signs
        self.nearest = not signs and high == self.largest
        moved, _ = self.seen(kernel.variable.value, g)
        if high >= 7:
            rows = np.asarray(moved).T if per == "channel" else np.asarray(moved).reshape(1, -1)
            best = symmetric_scale(rows, None, self.bits)
            start = np.maximum(np.broadcast_to(best, moved.shape[-1]), _TINY)
        else:
            start = self._tied(tf.reduce_mean(tf.abs(moved), axis=0), tf.reduce_mean) * 2 / np.sqrt(high)
        self.learned = Learned(make(start, name="step"), learning_rate, make)
        self.variables = self.learned.variables

    def fake(self, w, g=1.0, learning=None):
        if learning is not None:
            self.learned.step(learning)
        moved, factor = self.seen(w, g)
        s = self.learned.variable.value
        count = int(np.prod(self.kernel.shape[:2])) * (1 if self.per == "channel" else self.kernel.shape[2])

        @tf.custom_gradient
        def quantized(moved):
            u, q = moved / s, self._codes(moved, s)

            def backward(upstream):
                inside = 1.0 if self.signs else tf.cast((u > self.low) & (u < self.high), tf.float32)
                if learning is not None:
                    moving = 0.0 if self.signs else inside * u
                    gradient = tf.reduce_sum(upstream * (q - moving), axis=0) / np.sqrt(count * self.high)
                    if self.per != "channel":
                        gradient = tf.fill(tf.shape(gradient), tf.reduce_sum(gradient))
                    self.learned.note(gradient)
                return upstream * inside

            return q * s, backward

        return self.back(quantized(moved) / factor)

    def _step(self, moved):
        return self.learned.variable.value

    def _codes(self, moved, s):
        if self.signs:
            return tf.where(moved < 0, -1.0, 1.0)
        return tf.clip_by_value(tf.round(moved / s), self.low, self.high)


class HalfGrid(Grid):
    """float16: no integers, but the nearest 16-bit float."""

    plain = True

    def __init__(self, kernel: Kernel):
        super().__init__(kernel, 16, 16)

    def fake(self, w, g=1.0, learning=None):
        return tf.grad_pass_through(lambda v: tf.cast(tf.cast(v, tf.float16), v.dtype))(tf.convert_to_tensor(w))


def grid(kernel: Kernel, scheme: Scheme, precision: str, stored_bits: int, make: Callable, g=1.0) -> Grid:
    """The grid of a kernel in a precision of `scheme`. `make` creates a variable; g is the present factor of the batch
    norm."""
    if precision == "float16":
        return HalfGrid(kernel)
    if scheme.steps == "learned":
        ends = PRECISIONS[precision].levels
        signs = precision == "binary"
        return LearnedGrid(kernel, *ends, stored_bits, scheme.per, signs, make, scheme.learning_rate, g)
    bits = PRECISIONS[precision].weight_bits
    assert bits is not None  # a kernel that stays float has no grid
    if bits <= 2:
        return FewValuesGrid(kernel, precision, stored_bits, scheme.per)
    return LargestGrid(kernel, bits, stored_bits, scheme.per)


def stored(grid: Grid):
    """A kernel's weight as it is stored, not its float16 copy."""
    with stored_precision():
        return tf.convert_to_tensor(grid.kernel.variable.value)
