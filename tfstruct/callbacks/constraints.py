"""Masks as constraints: the optimizer applies a weight's constraint after each update, inside the compiled step."""

from collections.abc import Iterable

import keras
import numpy as np

from tfstruct.errors import ModelError


class Attached(keras.constraints.Constraint):
    """A constraint around the one that the weight had, until it is removed.

    Attributes:
        variable: the weight.
        owner: who holds the weight, for messages.
        before: the constraint that the weight had; None if it had none.
    """

    around = 0  # one with a higher number stands around those with a lower one

    def __init__(self, variable: keras.Variable, owner: str):
        other = variable.constraint
        if isinstance(other, Attached) and other.around == self.around:
            raise ModelError(
                f"{owner} and {other.owner} both want the weight {variable.path}. Call finish() of the one that is "
                "done, or give them different `layers`."
            )
        if isinstance(other, Attached) and other.around > self.around:
            raise ModelError(
                f"{other.owner} holds the weight {variable.path} already, and {owner} has to be attached before it: "
                f"give callbacks=[{owner}(...), {other.owner}(...)]."
            )
        self.variable, self.owner, self.before = variable, owner, other
        variable.constraint = self

    def remove(self) -> None:
        """The weight has its constraint without this one again, in whatever order those around it go."""
        outer = self.variable.constraint
        if outer is self:
            self.variable.constraint = self.before
        while isinstance(outer, Attached):
            if outer.before is self:
                outer.before = self.before
            outer = outer.before


class Masked(Attached):
    """w <- mask * w after the constraint that the weight had.

    Attributes:
        mask: a variable of its shape and type, ones at first. Values between 0 and 1 make weights decay.
    """

    def __init__(self, variable: keras.Variable, owner: str):
        super().__init__(variable, owner)
        self.mask = keras.Variable(np.ones(variable.shape), trainable=False, dtype=variable.dtype, name="mask")

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
