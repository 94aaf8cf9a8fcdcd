"""Values moved along the time axis, the second of a batch."""

import tensorflow as tf

from tfstruct.augment.draws import Draws


def shift(share: float, fill=None):
    """A change: x[t - s], s drawn up to `share` of the length either way; `fill(x)` where nothing was, by default 0."""

    def change(x, draws: Draws):
        length = tf.shape(x)[1]
        most = tf.cast(tf.round(share * tf.cast(length, tf.float32)), tf.int32)
        steps = draws.integers((tf.shape(x)[0],), 0, 2 * most) - most
        places = tf.range(length)[None] - steps[:, None]
        inside = (places >= 0) & (places < length)
        moved = tf.gather(x, tf.clip_by_value(places, 0, length - 1), axis=1, batch_dims=1)
        return tf.where(_along(inside, x), moved, 0.0 if fill is None else fill(x))

    return change


def warp(strength: float, knots: int = 4):
    """A change: time runs faster and slower (arXiv:1706.00527), first and last value where they were.

    Between `knots` + 1 points in time the speed is exp(strength * z), z normal; values between two are interpolated.
    """

    def change(x, draws: Draws):
        count, length = tf.shape(x)[0], tf.shape(x)[1]
        speeds = tf.exp(strength * draws.normal((count, knots)))
        passed = tf.pad(tf.cumsum(speeds, axis=1), [[0, 0], [1, 0]])
        passed = passed / passed[:, -1:] * tf.cast(length - 1, tf.float32)
        # Where on the warped time the t-th value is read.
        at = tf.linspace(0.0, float(knots), length)
        low = tf.minimum(tf.cast(at, tf.int32), knots - 1)
        part = (at - tf.cast(low, tf.float32))[None]
        places = (1 - part) * tf.gather(passed, low, axis=1) + part * tf.gather(passed, low + 1, axis=1)
        before = tf.minimum(tf.cast(places, tf.int32), length - 1)
        share = _along(places - tf.cast(before, tf.float32), x)
        values = [tf.gather(x, i, axis=1, batch_dims=1) for i in (before, tf.minimum(before + 1, length - 1))]
        return (1 - share) * values[0] + share * values[1]

    return change


def _along(values, x):
    """By (sample, time), so that it fits x."""
    return tf.reshape(values, tf.concat([tf.shape(values), tf.ones(len(x.shape) - 2, tf.int32)], 0))
