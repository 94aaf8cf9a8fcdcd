"""The range of an activation in training: a moving average, or learned."""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfstruct.quantize.fake import fake_activation, learned_activation, off_half
from tfstruct.quantize.learning import Learned
from tfstruct.quantize.scheme import Scheme

# Percentiles of a larger batch, or of one of open size, are those of so many of its values.
_MOST_VALUES = 4096


class Range:
    """[low, high], low <= 0 <= high, of all the rounding points that share it.

    Attributes:
        seen: 1 once a batch has been seen.
    """

    def __init__(self, scheme: Scheme, make: Callable[..., keras.Variable]):
        self.scheme = scheme
        self.low, self.high, self.seen = make(0.0, name="low"), make(0.0, name="high"), make(0.0, name="seen")
        self.learns = scheme.ranges in ("learned", "pact")
        ends = (self.low, self.high) if self.learns else ()
        self.ends = [Learned(end, scheme.learning_rate, make) for end in ends]

    @property
    def variables(self) -> list[keras.Variable]:
        learned = [v for end in self.ends for v in end.variables]
        return [self.seen, *(learned or (self.low, self.high))]

    def pair(self) -> tuple[float, float] | None:
        """(low, high); None before a batch was seen."""
        if not self.seen.numpy():
            return None
        low, high = off_half(self.low.value, self.high.value)
        return float(low), float(high)

    def now(self):
        """(low, high) that values are rounded with, as scalar tensors."""
        return off_half(self.low.value, self.high.value)

    def set(self, low: float, high: float, like: "Range | None" = None) -> None:
        """Sets a range that was found elsewhere; with other statistics of `like`."""
        for variable, value in zip((self.low, self.high, self.seen), (low, high, 1.0), strict=True):
            variable.assign(value)

    def take(self, other: "Range") -> None:
        """Takes over the state of the same point's range in another simulation of this scheme."""
        for own, value in zip(self.variables, other.variables, strict=True):
            own.assign(value)

    def looked_at(self, x):
        """The values of x that the range is computed from."""
        return x

    def follow(self, x, frozen, positive: bool = False) -> None:
        """Updates the range with a batch (non-negative if `positive`), unless `frozen` is 1 and a batch was seen
        before."""
        low, high = self._of_batch(self.looked_at(tf.cast(x, tf.float32)), positive)
        if self.scheme.ranges != "percentile":  # of percentiles of parts of a batch the mean is taken
            low, high = _of_all_replicas(low, high)
        low, high = tf.minimum(low, 0.0), tf.maximum(high, 0.0)
        before = self.low.value, self.high.value
        if self.scheme.ranges == "minmax":
            new = tf.minimum(before[0], low), tf.maximum(before[1], high)
        else:
            rate = 1 - self.scheme.momentum
            new = before[0] + rate * (low - before[0]), before[1] + rate * (high - before[1])
        first = self.seen.value == 0.0
        still = tf.logical_and(frozen > 0, tf.logical_not(first))
        for variable, value, start in zip((self.low, self.high), new, (low, high), strict=True):
            variable.assign(tf.where(still, variable.value, tf.where(first, start, value)))
        self.seen.assign(1.0)

    def _moves(self):
        """1 if values are rounded with the learned ends."""
        return 1.0

    def _of_batch(self, x, positive: bool):
        if self.scheme.ranges != "percentile":
            return 0.0 if positive else tf.reduce_min(x), tf.reduce_max(x)
        values = tf.reshape(x, [-1])
        if values.shape[0] is None or values.shape[0] > _MOST_VALUES:
            # Places at random, the same for each batch: those of equal distance meet few of the channels.
            places = tf.random.stateless_uniform([_MOST_VALUES], (0, 0), 0, tf.size(values), tf.int32)
            values = tf.gather(values, places)
        values = tf.sort(values)
        last = tf.cast(tf.size(values) - 1, tf.float32)
        share = self.scheme.percentile / 100
        at = [tf.cast(tf.round(last * s), tf.int32) for s in (1 - share, share)]
        return values[at[0]], values[at[1]]

    def quantized(self, x, bits: int, learning=None):
        """`x` rounded to the integers of this range.

        Args:
            learning: 1 or 0, in training, where the ends shall learn from this x; None: they do not.
        """
        learns = learning is not None and bool(self.ends)
        for end in self.ends if learns else ():
            end.step(learning)
        low, high = self.now()
        if not learns:
            return fake_activation(x, low, high, bits)

        def note(*gradients):
            for end, gradient in zip(self.ends, gradients, strict=True):
                end.note(self._moves() * (gradient + 2 * self.scheme.decay * end.variable.value))

        return learned_activation(x, low, high, note, clips_only=self.scheme.ranges == "pact")


def _of_all_replicas(low, high):
    """The range of a batch of which each replica has a part; assigned by itself it would be the mean of the parts'."""
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return low, high
    ends = replica.all_gather(tf.stack([[low, high]]), axis=0)
    return tf.reduce_min(ends[:, 0]), tf.reduce_max(ends[:, 1])


class TableRange(Range):
    """The range of what is looked up in a table of weights: that of the whole table, which is one constant of the file.

    Args:
        table: gives its present values.
    """

    def __init__(self, scheme: Scheme, make: Callable[..., keras.Variable], table: Callable):
        super().__init__(scheme.replace(ranges="minmax"), make)
        self.table = table

    def now(self):
        values = tf.stop_gradient(tf.cast(self.table(), tf.float32))
        return tf.minimum(tf.reduce_min(values), 0.0), tf.maximum(tf.reduce_max(values), 0.0)

    def pair(self) -> tuple[float, float] | None:
        if not self.seen.numpy():
            return None
        low, high = self.now()
        return float(low), float(high)

    def follow(self, x, frozen, positive: bool = False) -> None:
        self.seen.assign(1.0)
