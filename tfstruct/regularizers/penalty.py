"""What all penalties have in common: a strength, and a value of one weight."""

import keras
from keras import ops

from tfstruct.arguments import require_number


class Penalty(keras.Regularizer):
    """strength * value(w), computed in float32 at least and returned in the dtype of w."""

    def __init__(self, strength: float):
        self.strength = require_number("strength", strength, least=0)

    def value(self, w):
        """The penalty of a tensor, without the strength."""
        raise NotImplementedError

    def __call__(self, x):
        return ops.cast(self.strength * self.value(ops.cast(x, wide(x))), x.dtype)

    def get_config(self) -> dict:
        return {"strength": self.strength}


def wide(x) -> str:
    """The dtype to sum in."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def root(square):
    """The square root, of gradient 0 at 0 in place of infinity: a group that is zero feels no penalty."""
    positive = square > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, square, 1.0)), 0.0)


def quotient(a, b):
    """a / b, and 0 where b is 0."""
    return ops.where(b > 0, a / ops.where(b > 0, b, 1.0), 0.0)
