"""The outputs of a teacher as soft targets beside the labels."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

_EPSILON = 1e-7


@contextlib.contextmanager
def taught(
    student: keras.Model, teacher: keras.Model | None, kinds: Sequence[str], weight: float, temperature: float
) -> Iterator[None]:
    """While it is open, the student's loss is `(1 - weight) * own loss + weight * sum over the outputs of D`, with

    - of classes: `D = T^2 KL(softmax(z_t / T) || softmax(z_s / T))`, logits z, temperature T (Sec. 2,
      arXiv:1503.02531); of probabilities p they are log p, up to a constant that softmax does not see;
    - of a sigmoid: the binary cross-entropy against the teacher's probability;
    - of other values: the mean squared difference.

    The teacher sees the batches that the student sees. Without labels the own loss is that of the layers alone.

    Args:
        student: compiled; it is as it was afterwards.
        teacher: None: nothing changes.
        kinds: of the outputs, see `Objective`.
    """
    if teacher is None or not weight:
        yield
        return
    own = student.compute_loss

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if y is None:
            loss = sum(student.losses, start=tf.constant(0.0))
        else:
            loss = own(x, y, y_pred, sample_weight, training=training)
        if not training:
            return loss
        expected = keras.tree.flatten(teacher(x, training=False))
        pairs = zip(kinds, expected, keras.tree.flatten(y_pred), strict=True)
        soft = sum(_distance(kind, tf.stop_gradient(t), s, temperature) for kind, t, s in pairs)
        return soft if y is None else (1 - weight) * loss + weight * tf.cast(soft, loss.dtype)

    # Keras calls model.compute_loss; an attribute of the instance goes before the method of the class.
    object.__setattr__(student, "compute_loss", compute_loss)
    try:
        yield
    finally:
        object.__delattr__(student, "compute_loss")


def _distance(kind: str, teacher, student, temperature: float):
    t, s = tf.cast(teacher, tf.float32), tf.cast(student, tf.float32)
    if kind == "probability":
        return tf.reduce_mean(keras.losses.binary_crossentropy(t, s))
    if kind == "values":
        return tf.reduce_mean(tf.square(t - s))
    if kind == "probabilities":
        t, s = (tf.math.log(tf.clip_by_value(p, _EPSILON, 1.0)) for p in (t, s))
    t, s = (tf.nn.log_softmax(z / temperature, axis=-1) for z in (t, s))
    return temperature**2 * tf.reduce_mean(tf.reduce_sum(tf.exp(t) * (t - s), axis=-1))
