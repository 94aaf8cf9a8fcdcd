"""How far outputs are from those of the original: what alternatives are taught by, and what they lose."""

from collections.abc import Callable, Iterable, Sequence

import keras
import tensorflow as tf

_LEAST = 1e-7  # of a probability
_NO_VARIANCE = 1e-12

# (what the original makes, what an alternative makes) -> how far apart, by sample
Distance = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def distance_of(kind: str, variance: float = 1.0) -> Distance:
    """The distance of one tensor: of classes the Kullback-Leibler divergence `sum t log(t / s)`, its mean over
    positions; of other values the mean squared error as a share of their variance.

    Args:
        kind: of an output, see `Objective.kinds`; `"values"` for what is inside of a model.
        variance: of the values.
    """
    kinds = {"probabilities": _of_classes, "logits": _of_logits, "probability": _of_probability}
    if kind in kinds:
        return kinds[kind]
    scale = 1.0 / max(variance, _NO_VARIANCE)
    return lambda t, s: scale * _by_sample(tf.square(_wide(t) - _wide(s)))


def summed(distances: Sequence[Distance], theirs: Sequence[tf.Tensor], ours: Sequence[tf.Tensor]) -> tf.Tensor:
    """By sample, the sum over several tensors."""
    return tf.add_n([one(t, s) for one, t, s in zip(distances, theirs, ours, strict=True)])


def constant_for(kind: str, batches: Iterable[tf.Tensor]) -> tf.Tensor:
    """What a model makes of every sample that knows nothing of them: the mean of what the original makes, of classes
    that of their probabilities; of one sample, as `distance_of` the same kind takes it.

    Args:
        batches: of what the original makes.
    """
    total, count = tf.zeros(()), 0
    for values in batches:
        values = keras.ops.softmax(_wide(values)) if kind == "logits" else _wide(values)
        total, count = total + tf.reduce_sum(values, 0, keepdims=True), count + len(values)
    mean = total / count
    return tf.math.log(tf.maximum(mean, _LEAST)) if kind == "logits" else mean


def _of_classes(t, s):
    t, s = _wide(t), _wide(s)
    ratio = tf.math.log(tf.maximum(t, _LEAST)) - tf.math.log(tf.maximum(s, _LEAST))
    return _by_sample(tf.reduce_sum(t * ratio, -1))


def _of_logits(t, s):
    return _of_classes(keras.ops.softmax(_wide(t)), keras.ops.softmax(_wide(s)))


def _of_probability(t, s):
    t, s = _wide(t), _wide(s)
    return _of_classes(tf.stack([t, 1 - t], -1), tf.stack([s, 1 - s], -1))


def _by_sample(values):
    return tf.reduce_mean(tf.reshape(values, (tf.shape(values)[0], -1)), -1)


def _wide(x):
    return tf.cast(x, tf.float32)
