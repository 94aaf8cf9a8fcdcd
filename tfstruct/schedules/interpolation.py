"""Curves between two learning rates, and which interval of a schedule a step is in; as tensors."""

import math

import keras
from keras import ops


def as_float(value):
    """A step or rate as a tensor of Keras's float type, float32 unless set otherwise."""
    return ops.cast(value, keras.config.floatx())


def whole_cycles(step, length: int):
    """floor(step / length), in integers: a division of floats may come out just below a whole number."""
    return ops.floor_divide(ops.cast(step, "int32"), length)


def share(step, length: int):
    """The share of an interval of `length` steps that is done, in [0, 1]."""
    return ops.clip(step / length, 0.0, 1.0)


def line(a, b, share):
    return a + (b - a) * share


SHAPES = {
    "linear": line,
    "cosine": lambda a, b, share: b + (a - b) * 0.5 * (1 + ops.cos(math.pi * share)),
    "sqrt": lambda a, b, share: line(a, b, ops.sqrt(share)),
}


def last_begun(step, rates, starts):
    """The rate of the last interval that has begun; the first begins at step 0."""
    chosen = rates[0]
    for rate, start in zip(rates[1:], starts, strict=True):
        chosen = ops.where(step >= start, rate, chosen)
    return chosen
