"""Weights that share values while an optimizer moves them: their gradients summed, their values held together."""

import keras
import numpy as np
import tensorflow as tf

from tfstruct import codebooks
from tfstruct.callbacks.constraints import Attached
from tfstruct.graph.kernels import lent
from tfstruct.keras_internals.layer_parts import stored_precision


class Tied(Attached):
    """w_i <- s_i mean(s_j w_j), j over the group of i, after the constraint that the weight had.

    The optimizer has moved all of a group alike if the gradients are those of `summed`; what is left are its slots from
    before and the last bits of a float.

    Attributes:
        group: a variable of the weight's shape: the number of the group that an entry belongs to. Group 0 is zero.
        sign: a variable of -1 and 1, or None: all 1.
        size: the number of groups.
        keep_zeros: whether entries that are zero stay so and do not count in their group.
    """

    around = 1  # masks come first: what they have set to zero does not count
    shares = True

    def __init__(self, variable: keras.Variable, owner: str, size: int, keep_zeros: bool, signed: bool = False):
        super().__init__(variable, owner)
        self.size, self.keep_zeros = size, keep_zeros
        shape = tuple(variable.shape)
        self.group = keras.Variable("zeros", shape, "int32", trainable=False, name="group")
        self.sign = None
        if signed:
            self.sign = keras.Variable(np.ones(shape), trainable=False, dtype=variable.dtype, name="sign")

    def __call__(self, w):
        return self._settle(w if self.before is None else self.before(w))

    def keeps_zero(self, w: np.ndarray) -> np.ndarray:
        return np.full(w.shape, True) if self.keep_zeros else lent(self.group) == 0

    def _settle(self, w):
        w = tf.convert_to_tensor(w)
        alive = self._alive(w)
        # Measured from one of them, the mean of equal numbers is that number, to the last bit.
        values = self._signed(w)
        seen = tf.where(alive > 0, values, values.dtype.min)
        one = tf.math.unsorted_segment_max(self._flat(seen), self._flat(self.group.value), self.size)
        away = self._sum((values - tf.gather(one, self.group.value)) * alive)
        means = one + away / tf.maximum(self._sum(alive), 1)
        means *= tf.constant(np.arange(self.size) > 0, means.dtype)
        return self._signed(tf.gather(means, self.group.value) * alive)

    def total(self, gradient, w):
        """The sum of s_i g_i over each group."""
        return self._sum(self._signed(tf.convert_to_tensor(gradient)) * self._alive(w))

    def spread(self, totals):
        """A number for each group as a number for each entry, with its sign."""
        return self._signed(tf.gather(totals, self.group.value))

    def _alive(self, w):
        return tf.cast(w != 0, w.dtype) if self.keep_zeros else tf.ones_like(w)

    def _signed(self, x):
        return x if self.sign is None else x * self.sign.value

    def _flat(self, x):
        return tf.reshape(x, [-1])

    def _sum(self, x):
        return tf.math.unsorted_segment_sum(self._flat(x), self._flat(self.group.value), self.size)

    def set(self, group: np.ndarray, sign: np.ndarray | None = None) -> None:
        self.group.assign(group)
        if self.sign is not None:
            self.sign.assign(sign)

    def groups(self) -> tuple[np.ndarray, np.ndarray | int]:
        """Groups and signs, as arrays."""
        return self.group.numpy(), 1 if self.sign is None else self.sign.numpy().astype(np.int8)


class Codebook:
    """Weights that share one set of values, as an optimizer and the model see them.

    Attributes:
        tied: the constraint of each weight; they number their groups alike.
    """

    def __init__(self):
        self.tied: list[Tied] = []

    def add(self, tied: Tied) -> None:
        own = tied.variable.regularizer
        if own is not None:
            tied.variable.regularizer = _Summed(self, len(self.tied), own)
        self.tied.append(tied)

    @property
    def variables(self) -> list[keras.Variable]:
        return [one.variable for one in self.tied]

    def read(self) -> list[tf.Tensor]:
        """The weights as they are. Each gets as its gradient s_i sum(s_j g_j), j over all entries of the group of i."""
        with stored_precision():  # summed in the type of the weights, not in their float16 copies
            weights = [tf.convert_to_tensor(one.variable.value) for one in self.tied]

        @tf.custom_gradient
        def same(*weights):
            def gradient(*upstream):
                totals = tf.add_n([t.total(g, w) for t, g, w in zip(self.tied, upstream, weights, strict=True)])
                return [one.spread(totals) for one in self.tied]

            return [tf.identity(w) for w in weights], gradient

        return same(*weights)

    def unite(self) -> list[float]:
        """Sets all weights to the mean of their group at once; returns |w' - w| / |w| of each."""
        errors, values = [], self._united()
        for one in self.tied:
            new, old = values.pop(0), lent(one.variable)
            errors.append(codebooks.distance(new, old))
            one.variable.assign(new)
        return errors

    def holds(self) -> bool:
        """Whether all entries of a group are equal."""
        return all(np.array_equal(lent(v), new) for v, new in zip(self.variables, self._united(), strict=True))

    def _united(self) -> list[np.ndarray]:
        groups = [lent(one.group) for one in self.tied]
        signs = [1 if one.sign is None else lent(one.sign) for one in self.tied]
        return codebooks.united([lent(v) for v in self.variables], groups, signs, self.tied[0].keep_zeros)

    def remove(self) -> None:
        """The weights have their own constraints and regularizers again."""
        for one in self.tied:
            one.remove()
            if isinstance(one.variable.regularizer, _Summed):
                one.variable.regularizer = one.variable.regularizer.own


class _Summed(keras.regularizers.Regularizer):
    """The penalty of a weight, with the gradient that `Codebook.read` gives."""

    def __init__(self, codebook: Codebook, place: int, own: keras.regularizers.Regularizer):
        self.codebook, self.place, self.own = codebook, place, own

    def __call__(self, _):
        return self.own(self.codebook.read()[self.place])
