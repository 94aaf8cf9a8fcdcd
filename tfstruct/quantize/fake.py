"""Quantization seen in float: values rounded to what integers can stand for, gradients passed straight through."""

import numpy as np
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
        scale = limit / (2 ** (bits - 1) - 1)
        inside = tf.clip_by_value(values, -limit, limit)
        quantized = inside + tf.stop_gradient(tf.round(inside / scale) * scale - inside)
    return tf.cast(quantized, x.dtype)


def rounded_average(x, low, high):
    """`fake_activation` in 8 bits with halves rounded away from the integer zero, as average pooling in files does."""
    scale = activation_scale(low, high)
    zero = tf.round(-128.0 - low / scale)
    q = tf.cast(x, tf.float32) / scale + zero
    q = tf.sign(q) * tf.floor(tf.abs(q) + 0.5 + 1e-4)  # a half is not exact in floats
    return tf.cast((tf.clip_by_value(q, -128.0, 127.0) - zero) * scale, x.dtype)


def activation_scale(low, high, bits: int = 8):
    """The step s of `fake_activation`."""
    if bits == 8:
        return tf.maximum(high - low, 1e-9) / 255.0
    return tf.maximum(tf.maximum(-low, high), 1e-9) / (2 ** (bits - 1) - 1)


def _by_channel(w, order, shape):
    """A kernel as (everything else, output channels), and the largest magnitude of each channel."""
    moved = tf.reshape(tf.transpose(tf.cast(w, tf.float32), order), (-1, shape[-1]))
    limit = tf.stop_gradient(tf.reduce_max(tf.abs(moved), axis=0))
    return moved, tf.maximum(limit, 1e-9)  # a channel of zeros stays zero


def _back(moved, w, order):
    return tf.transpose(tf.reshape(moved, [w.shape[i] for i in order]), np.argsort(order))


def fake_weight(w, order: tuple[int, ...], shape: tuple[int, ...], bits: int = 8):
    """w' = s * clip(round(w / s), -Q, Q), Q = 2^(bits-1) - 1, one s = max|w| / Q for each output channel.

    Args:
        w: a kernel.
        order, shape: transposed and reshaped by them, it has its output channels on the last axis.
    """
    moved, limit = _by_channel(w, order, shape)
    quantized = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        moved, -limit, limit, num_bits=bits, narrow_range=True
    )
    return _back(quantized, w, order)


def integer_weight(w, order: tuple[int, ...], shape: tuple[int, ...], bits: int = 8):
    """(q, s): the integers of `fake_weight` as floats, shaped like the kernel, and the step of each output channel."""
    moved, limit = _by_channel(w, order, shape)
    top = 2 ** (bits - 1) - 1
    scale = limit / top
    return _back(tf.clip_by_value(tf.round(moved / scale), -top, top), w, order), scale
