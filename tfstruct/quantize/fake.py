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


def fake_weight(w, order: tuple[int, ...], shape: tuple[int, ...], bits: int = 8):
    """w' = s * clip(round(w / s), -Q, Q), Q = 2^(bits-1) - 1, one s = max|w| / Q for each output channel.

    Args:
        w: a kernel.
        order, shape: transposed and reshaped by them, it has its output channels on the last axis.
    """
    moved = tf.reshape(tf.transpose(tf.cast(w, tf.float32), order), shape)
    limit = tf.stop_gradient(tf.reduce_max(tf.abs(moved), axis=list(range(len(shape) - 1))))
    limit = tf.maximum(limit, 1e-9)  # a channel of zeros stays zero
    quantized = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        tf.reshape(moved, (-1, shape[-1])), -limit, limit, num_bits=bits, narrow_range=True
    )
    back = np.argsort(order)
    return tf.transpose(tf.reshape(quantized, [w.shape[i] for i in order]), back)
