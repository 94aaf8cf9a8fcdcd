"""Fake quantization of activations: rounded to a grid of integers, in float, with straight-through gradients."""

from collections.abc import Callable

import tensorflow as tf


def fake_activation(x, low, high, bits: int = 8):
    """x' = s * (clip(round(x / s) + z) - z), one scale s = (high - low) / (2^bits - 1) and zero point z.

    The gradient is one inside [low, high] and zero outside (Eq. 12, arXiv:1712.05877). With 16 bits the range is
    symmetric: s = max(-low, high) / 32767, z = 0.

    Args:
        x: of any float type; computed in float32, returned as it came.
        low, high: scalars, low <= 0 <= high.
    """
    values = tf.cast(x, tf.float32)
    if bits == 8:
        quantized = tf.quantization.fake_quant_with_min_max_vars(values, low, high, num_bits=8)
    else:
        limit = tf.maximum(tf.maximum(-low, high), 1e-9)
        scale = activation_scale(low, high, bits)
        inside = tf.clip_by_value(values, -limit, limit)
        quantized = inside + tf.stop_gradient(tf.round(inside / scale) * scale - inside)
    return tf.cast(quantized, x.dtype)


def off_half(low, high):
    """(low, high), one of them a little further where the integer zero would lie between two: there the last bit of a
    division would choose, in twin and file each its own. Symmetric ranges, as of rotary embeddings, are such."""
    span = tf.maximum(high - low, 1e-30)
    zero = -255.0 * low / span
    half = tf.abs(zero - tf.floor(zero) - 0.5) < 1e-4
    more = tf.where(half, 2e-6 * span, 0.0)
    return tf.where(zero < 127.0, low - more, low), tf.where(zero < 127.0, high, high + more)


def learned_activation(x, low, high, note: Callable, clips_only: bool = False):
    """`fake_activation` in 8 bits that hands the gradients of its ends to `note`.

    With s = (high - low) / 255 and u = (x - low) / s, inside dy/dhigh = (round(u) - u) / 255 and dy/dlow = -dy/dhigh;
    above, dy/dhigh = 1, below, dy/dlow = 1 (LSQ+, Eq. 5 and 6, arXiv:2004.09576, for the ends in place of step and
    offset). The sums over all x are divided by sqrt(255 n) for n values, as LSQ does.

    Args:
        note: (dL/dlow, dL/dhigh) -> None, called in the backward pass.
        clips_only: leaves out the terms of the inside (PACT, Eq. 3, arXiv:1805.06085).
    """

    @tf.custom_gradient
    def quantized(values):
        y = tf.quantization.fake_quant_with_min_max_vars(values, low, high, num_bits=8)

        def backward(upstream):
            above, below = tf.cast(values > high, tf.float32), tf.cast(values < low, tf.float32)
            inside = upstream * (1 - above - below)
            scale = tf.math.rsqrt(255.0 * tf.cast(tf.size(values), tf.float32))
            error = 0.0
            if not clips_only:
                error = tf.reduce_sum(inside * (y - values)) / tf.maximum(high - low, 1e-9)
            d_high = (tf.reduce_sum(upstream * above) + error) * scale
            d_low = (tf.reduce_sum(upstream * below) - error) * scale
            note(d_low, d_high)
            return inside

        return y, backward

    return tf.cast(quantized(tf.cast(x, tf.float32)), x.dtype)


def divided(x, number: int):
    """x / number, correctly rounded: in a graph TensorFlow multiplies by the reciprocal of a constant, which is an ulp
    off."""
    return tf.cast(tf.cast(x, tf.float64) / number, tf.float32)


def activation_scale(low, high, bits: int = 8):
    """The step s of `fake_activation`."""
    if bits == 8:
        return divided(tf.maximum(high - low, 1e-9), 255)
    return divided(tf.maximum(tf.maximum(-low, high), 1e-9), 2 ** (bits - 1) - 1)
