"""Distillation: the original model teaches the smaller ones."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfstruct.compression.objective import Objective
from tfstruct.distill import Attention, Distill, Features, Logits
from tfstruct.graph import trace
from tfstruct.surgery import residual_blocks

# Kinds of outputs in the words of `Logits`.
_CLASSES = {"probabilities": "softmax", "logits": "logits", "probability": "sigmoid"}


class Values(keras.distillation.DistillationLoss):
    """Loss for outputs that are not classes: L = mean of (t - s)^2, summed over the outputs.

    Args:
        chosen: the numbers of these outputs.
    """

    def __init__(self, chosen: Sequence[int]):
        self.chosen = tuple(chosen)

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        teachers, students = keras.tree.flatten(teacher_outputs), keras.tree.flatten(student_outputs)
        return tf.add_n([tf.reduce_mean(tf.square(teachers[i] - students[i])) for i in self.chosen])


def distillation_callbacks(
    teacher: keras.Model, student: keras.Model, aim: Objective, weight: float, temperature: float
) -> list[keras.callbacks.Callback]:
    """The callbacks that train a student on a teacher's outputs and on the outputs of its residual blocks. None at
    weight 0.

    Args:
        aim: which outputs are classes, and of what kind; without labels the teacher's outputs are all of the loss.
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
        outputs = trace(student).body.functional.output_names
        names = [outputs[i] for i in classes]
        losses.append(Logits(temperature, outputs=names, teacher_outputs=kinds, student_outputs=kinds))
    if values:
        losses.append(Values(values))
    joins = _joins(teacher, student)
    losses += [Features(joins), Attention(joins)] if joins else []
    return [Distill(teacher, losses, student_loss_weight=1 - weight)]


def _joins(teacher: keras.Model, student: keras.Model) -> dict[str, str]:
    """The joins of residual blocks that both models have, if their values have positions (images, sequences)."""
    theirs, ours = ({call.path: call.outputs[0].shape for call in trace(model).calls} for model in (teacher, student))
    joins = [block.join for block in residual_blocks(teacher)]
    return {
        join: join for join in joins if join in ours and len(ours[join]) > 2 and theirs[join][:-1] == ours[join][:-1]
    }
