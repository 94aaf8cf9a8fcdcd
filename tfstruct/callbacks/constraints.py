"""Masks as constraints: the optimizer applies a weight's constraint after each update, inside the compiled step."""

from collections.abc import Iterable

import keras
import numpy as np

from tfstruct.errors import ModelError


class Masked(keras.constraints.Constraint):
    """w <- mask * w after the constraint that the weight had.

    Attributes:
        variable: the weight.
        mask: a variable of its shape and type, ones at first. Values between 0 and 1 make weights decay.
        owner: who masks the weight, for messages.
    """

    def __init__(self, variable: keras.Variable, owner: str):
        other = variable.constraint
        if isinstance(other, Masked):
            raise ModelError(
                f"{owner} and {other.owner} both want the weight {variable.path}. Call finish() of the one that is "
                "done, or give them different `layers`."
            )
        self.variable, self.owner, self.before = variable, owner, other
        self.mask = keras.Variable(np.ones(variable.shape), trainable=False, dtype=variable.dtype, name="mask")
        variable.constraint = self

    def __call__(self, w):
        w = w if self.before is None else self.before(w)
        return w * self.mask

    def set(self, mask: np.ndarray) -> None:
        """Takes a new mask and applies it to the weight at once."""
        self.mask.assign(mask)
        self.apply()

    def apply(self) -> None:
        """Sets the weight to zero wherever the mask is."""
        self.variable.assign(np.where(self.mask.numpy() == 0, 0.0, self.variable.numpy()))

    def holds(self) -> bool:
        """Whether the weight is zero wherever the mask is."""
        return not np.any(self.variable.numpy()[self.mask.numpy() == 0])

    def remove(self) -> None:
        """The weight has its own constraint again."""
        if self.variable.constraint is self:
            self.variable.constraint = self.before


class Moving(Masked):
    """Notes besides how far each weight moves away from zero: score <- score + (w_t - w_(t-1)) * w_(t-1).

    With plain gradient descent that is -lr * gradient * w, the movement score (Eq. 3, arXiv:2005.07683).
    """

    def __init__(self, variable: keras.Variable, owner: str):
        super().__init__(variable, owner)
        self.last = keras.Variable(variable.numpy(), trainable=False, dtype=variable.dtype, name="last")
        self.score = keras.Variable(np.zeros(variable.shape), trainable=False, dtype=variable.dtype, name="score")

    def __call__(self, w):
        w = super().__call__(w)
        self.score.assign(self.score + (w - self.last) * self.last)
        self.last.assign(w)
        return w

    def apply(self) -> None:
        super().apply()
        self.last.assign(self.variable.numpy())


def require_held(masked: Iterable[Masked]) -> None:
    """Raises where a training step has brought back weights that are masked."""
    if not all(one.holds() for one in masked):
        raise ModelError(
            "Pruned weights came back with the last step: the training step was traced before the model was attached, "
            "so it knows of no mask. Call attach(model) first, then define the tf.function."
        )
