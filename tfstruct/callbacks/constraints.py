"""Masks as constraints: the optimizer applies a weight's constraint after each update, inside the compiled step."""

from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from tfstruct.errors import ModelError
from tfstruct.graph.kernels import lent


class Attached(keras.constraints.Constraint):
    """A constraint around the one that the weight had, until it is removed.

    Attributes:
        variable: the weight.
        owner: who holds the weight, for messages.
        before: the constraint that the weight had; None if it had none.
    """

    owner: str
    around = 0  # one with a higher number stands around those with a lower one
    shares = False  # whether entries that share a value go on sharing it

    def __init__(self, variable: keras.Variable, owner: str):
        other = variable.constraint
        if isinstance(other, Attached) and other.around == self.around:
            raise ModelError(
                f"{owner} and {other.owner} both want the weight {variable.path}. Call finish() of the one that is "
                "done (or tfstruct.callbacks.release(model), if that is lost), or give them different `layers`."
            )
        if isinstance(other, Attached) and other.around > self.around:
            raise ModelError(
                f"{other.owner} holds the weight {variable.path} already, and {owner} has to be attached before it: "
                f"give callbacks=[{owner}(...), {other.owner}(...)]."
            )
        self.variable, self.owner, self.before = variable, owner, other
        variable.constraint = self

    def project(self, w):
        """Any values held to all that the weight is held to; nothing is noted, and nothing decays.

        For optimizers that assign to a weight once more after its constraint was applied.
        """
        w = w if self.before is None else getattr(self.before, "project", self.before)(w)
        return self._settle(w)

    def settled(self, w):
        """The same without the constraint that the user gave the weight."""
        return self._settle(self.before.settled(w) if isinstance(self.before, Attached) else w)

    def _settle(self, w):
        """The values held to this constraint alone."""
        raise NotImplementedError

    def keeps_zero(self, w: np.ndarray) -> np.ndarray:
        """By entry of the weight w, whether it stays zero if it is."""
        raise NotImplementedError

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
    """w <- w where the mask is true, else 0, after the constraint that the weight had.

    Attributes:
        mask: a boolean variable of its shape, true at first.
    """

    def __init__(self, variable: keras.Variable, owner: str):
        super().__init__(variable, owner)
        self.mask = self._mask()
        self.called = False

    def _mask(self) -> keras.Variable:
        return keras.Variable("ones", self.variable.shape, "bool", trainable=False, name="mask")

    def __call__(self, w):
        self.called = True
        return self._settle(w if self.before is None else self.before(w))

    def _settle(self, w):
        w = tf.convert_to_tensor(w)
        # Zeros of w's shape, as TensorFlow's kernel takes nearly twice as long where it has to broadcast one.
        return tf.where(tf.cast(self.mask.value, tf.bool), w, tf.zeros_like(w))

    def stays(self) -> np.ndarray:
        """Boolean, false where the weight is held at zero; not to be kept."""
        return lent(self.mask).astype(bool, copy=False)

    def keeps_zero(self, w: np.ndarray) -> np.ndarray:
        return ~self.stays()

    def set(self, mask: np.ndarray) -> None:
        """Takes a new mask and applies it to the weight at once."""
        self.mask.assign(mask)
        self.apply()

    def apply(self) -> None:
        """Sets the weight to zero wherever the mask is."""
        self.variable.assign(self._settle(self.variable))

    def zero_outside(self, mask: np.ndarray) -> bool:
        """Whether the weight is zero wherever this mask is."""
        return not np.greater(lent(self.variable) != 0, mask != 0).any()

    def holds(self) -> bool:
        """Whether the weight is zero wherever its mask is."""
        return self.zero_outside(lent(self.mask))


class Scaled(Masked):
    """w <- mask * w: the mask has numbers of the weight's type, and weights decay where they are between 0 and 1."""

    def _mask(self) -> keras.Variable:
        return keras.Variable("ones", self.variable.shape, self.variable.dtype, trainable=False, name="mask")

    def __call__(self, w):
        self.called = True
        return (w if self.before is None else self.before(w)) * self.mask


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
    back = [one for one in masked if not one.holds()]
    if not back:
        return
    name = back[0].variable.path
    if any(one.called for one in back):
        raise ModelError(
            f"Pruned weights such as {name} came back after the last step: its masks were applied, and something has "
            "assigned to the weights since. An optimizer around another one has to apply `variable.constraint` after "
            "its own assignments, as those of tfstruct.optimizers do; a callback that sets weights, or a `train_step`, "
            "has to stand before the optimizer's step."
        )
    raise ModelError(
        f"Pruned weights such as {name} came back with the last step, which knows of no mask: it was traced "
        "before the model was attached, or its optimizer does not apply `variable.constraint`. Call attach(model) "
        "first, then define the tf.function, with an optimizer that does (those of Keras do)."
    )
