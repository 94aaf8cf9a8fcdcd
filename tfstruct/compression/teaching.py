"""The original as the teacher of what is made from it."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfstruct.compression.objective import Objective
from tfstruct.distill import Distill, Logits

# Kinds of outputs in the words of `Logits`.
_CLASSES = {"probabilities": "softmax", "logits": "logits", "probability": "sigmoid"}


class Values(keras.distillation.DistillationLoss):
    """Outputs that are no classes: L = mean of (t - s)^2, summed over the outputs.

    Args:
        chosen: the numbers of these outputs.
    """

    def __init__(self, chosen: Sequence[int]):
        self.chosen = tuple(chosen)

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        teachers, students = keras.tree.flatten(teacher_outputs), keras.tree.flatten(student_outputs)
        return tf.add_n([tf.reduce_mean(tf.square(teachers[i] - students[i])) for i in self.chosen])


def taught_by(
    teacher: keras.Model, aim: Objective, outputs: Sequence[str], weight: float, temperature: float
) -> list[keras.callbacks.Callback]:
    """The callbacks that let a model learn from a teacher; none at weight 0.

    Args:
        aim: which outputs are classes, and of what kind; without labels the teacher's outputs are all of the loss.
        outputs: names of the output layers.
        weight: the share of the teacher's outputs in the loss.
        temperature: of the classes.
    """
    weight = 1.0 if aim.loss is None else weight
    if not weight:
        return []
    classes = [i for i, kind in enumerate(aim.kinds) if kind in _CLASSES]
    values = [i for i, kind in enumerate(aim.kinds) if kind not in _CLASSES]
    losses: list[keras.distillation.DistillationLoss] = []
    if classes:
        kinds = [_CLASSES[aim.kinds[i]] for i in classes]
        names = [outputs[i] for i in classes]
        losses.append(Logits(temperature, outputs=names, teacher_outputs=kinds, student_outputs=kinds))
    if values:
        losses.append(Values(values))
    return [Distill(teacher, losses, student_loss_weight=1 - weight)]
