"""Emulates how the file's kernels round their results."""

import tensorflow as tf

from tfstruct.quantize.fake import activation_scale

_HALF = 1e-4  # added to halves, which are not exact in floats
_ABOVE = 2.0**-12  # likewise, where they are


def rounded_input(x, low, high):
    """`fake_activation` in 8 bits by a division, as a file's inputs are rounded, not by the reciprocal of the scale."""
    scale, zero = activation_scale(low, high), _zero_point(low, high)
    q = tf.round(tf.cast(x, tf.float32) / scale) + zero
    return tf.cast((tf.clip_by_value(q, -128.0, 127.0) - zero) * scale, x.dtype)


def rounded_average(x, low, high):
    """`fake_activation` in 8 bits with halves rounded away from the integer zero, as average pooling in files does."""
    scale, zero = activation_scale(low, high), _zero_point(low, high)
    q = tf.cast(x, tf.float32) / scale + zero
    q = tf.sign(q) * tf.floor(tf.abs(q) + 0.5 + _HALF)
    return tf.cast((tf.clip_by_value(q, -128.0, 127.0) - zero) * scale, x.dtype)


def rounded_interpolation(x, low, high):
    """The same with halves rounded up, as bilinear resizing in files does (by XNNPACK)."""
    scale, zero = activation_scale(low, high), _zero_point(low, high)
    q = tf.floor(tf.cast(x, tf.float32) / scale + zero + 0.5 + _HALF)
    return tf.cast((tf.clip_by_value(q, -128.0, 127.0) - zero) * scale, x.dtype)


def _zero_point(low, high):
    return tf.round(-128.0 - low / activation_scale(low, high))


def rounded_down(x, scale):
    """x in whole steps, the next lower ones, as the square root in files ends."""
    return tf.floor(x / scale + _HALF) * scale


def once_rounded(total, step, scale):
    """Rescales an accumulator as 8-bit kernels do: round(total * (step / scale)) scale, halves to even."""
    return tf.round(total * (step / scale)) * scale


def twice_rounded(total, step, scale):
    """Rescales an accumulator as 4-bit kernels do: total * step in units of `scale`, rounded twice.

    With step / scale = m 2^e, m in [0.5, 1): t = round(total m), then round(t 2^e), halves upwards. Returns
    t 2^e scale, a little above halves, so that rounding to the nearest ends there.
    """
    t, power = _first_rounding(total, step, scale)
    return (t * power + _ABOVE) * scale


def rounded_inverse_root(x, s_x, scale):
    """1 / sqrt(x) as 8-bit kernels compute it: t = round(2^20 / sqrt(q)) of the integer q, at least 1, is rescaled by
    `twice_rounded`, with the step 1 / (2^20 sqrt(s_x))."""
    root = tf.floor(2.0**20 * tf.math.rsqrt(tf.maximum(_integers(x, s_x), 1.0)) + 0.5)
    return twice_rounded(root, 2.0**-20 / tf.sqrt(s_x), scale)


def rounded_away(total, step, scale):
    """The same with the second rounding's halves away from zero, as products of two tensors are rescaled."""
    t, power = _first_rounding(total, step, scale)
    return tf.sign(t) * (tf.abs(t) * power + _ABOVE) * scale


def _first_rounding(total, step, scale):
    """(t = round(total m), halves upwards, 2^e), where step / scale = m 2^e."""
    ratio = step / scale
    power = tf.minimum(2.0 * _power_of_two(ratio), 1.0)
    return tf.floor(total * (ratio / power) + 0.5), power


def rounded_contraction(total, step, scale, second):
    """Sums of products of two tensors: `once_rounded` where the integer zero of the second one's range is 0, as XNNPACK
    takes these alone; `rounded_away` else."""
    return tf.where(_zero_point(*second) == 0.0, once_rounded(total, step, scale), rounded_away(total, step, scale))


def rounded_sum(x, y, scales, scale, sign: int = 1):
    """x + sign * y as 8-bit kernels add: with factors of 21 bits, in fixed point, halves upwards.

    With m = max(s_x, s_y) / s, e = floor(log2 m) and k = 20 - e: f_x = round(s_x / s 2^k), f_y likewise, and the result
    is floor((x / s_x f_x + sign y / s_y f_y) / 2^k + 1/2) s.

    Args:
        scales: (s_x, s_y) of the two, which are multiples of them.
        scale: s, of the result.
    """
    ratios = [one / scale for one in scales]
    largest = _power_of_two(tf.maximum(*ratios))
    shift = 20 - (tf.bitcast(largest, tf.int32) // 2**23 - 127)
    power = 2.0**20 / largest
    factors = [tf.cast(tf.round(ratio * power), tf.int32) for ratio in ratios]
    a, b = (tf.cast(_integers(*one), tf.int32) for one in zip((x, y), scales, strict=True))
    total = a * factors[0] + sign * b * factors[1] + tf.bitwise.left_shift(1, shift - 1)
    return tf.cast(tf.bitwise.right_shift(total, shift), tf.float32) * scale


def rounded_product(x, y, scales, scale):
    """x y as 8-bit kernels multiply: the product of integers rescaled by s_x s_y / s, halves to even."""
    a, b = (_integers(*one) for one in zip((x, y), scales, strict=True))
    return once_rounded(a * b, scales[0] * scales[1], scale)


def rounded_mean(x, mean, s_x, scale):
    """The means that a layer takes of x: a sum of integers rescaled by s_x / (n s), halves to even."""
    found = mean(_integers(x, s_x))
    count = tf.cast(tf.size(x) / tf.size(found), tf.float32)
    return once_rounded(tf.round(found * count), s_x / count, scale)


def _power_of_two(x):
    """The largest power of two up to x > 0, exactly, also where x is one."""
    return tf.bitcast(tf.bitcast(tf.cast(x, tf.float32), tf.int32) // 2**23 * 2**23, tf.float32)


def _integers(x, scale):
    return tf.round(tf.cast(x, tf.float32) / scale)
