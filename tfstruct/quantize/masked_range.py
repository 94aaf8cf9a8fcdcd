"""The range of one quantization point with masked values: these are placed just below the others."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfstruct.quantize.fake import off_half
from tfstruct.quantize.mask_places import LEAST_UNSEEN
from tfstruct.quantize.ranges import Range
from tfstruct.quantize.scheme import Scheme

LARGEST = float(np.finfo(np.float32).max)


class MaskedRange(Range):
    """The range of a point where values may be masked; masked values are placed just below the others.

    Attributes:
        ends_of: gives (low, high) as they are rounded with, from what was seen here and at the points around.
        joins: whether values and mask come together here; else the file looks at the range as it was seen.
        masks: whether it is the range of a mask, or of what one is made of.
        beyond: 1 once masks came out of an operation whose inside is not seen; None for other operations.
    """

    def __init__(
        self,
        scheme: Scheme,
        make: Callable[..., keras.Variable],
        joins: bool,
        masks: bool = False,
        unseen: bool = False,
    ):
        if masks:  # of a mask nothing is left out, whenever it comes
            scheme = scheme.replace(ranges="minmax")
        super().__init__(scheme, make)
        self.joins = joins
        self.beyond: keras.Variable | None = make(0.0, name="beyond") if unseen else None
        self.ends_of: Callable[[], tuple] | None = None

    @property
    def variables(self) -> list[keras.Variable]:
        return [*super().variables, *([] if self.beyond is None else [self.beyond])]

    def now(self):
        assert self.ends_of is not None  # `MaskedRanges.attach` gives it
        low, high = self.ends_of()
        return off_half(tf.minimum(low, 0.0), tf.maximum(high, 0.0))

    def pair(self) -> tuple[float, float] | None:
        observed = super().pair()
        if observed is None or not self.joins:
            return observed
        low, high = self.now()
        return float(low), float(high)

    def set(self, low: float, high: float, like: Range | None = None) -> None:
        super().set(low, high)
        if self.beyond is not None and isinstance(like, MaskedRange) and like.beyond is not None:
            self.beyond.assign(like.beyond.value)

    def looked_at(self, x):
        x = tf.clip_by_value(x, -LARGEST, LARGEST)
        if self.beyond is None:
            return x
        beyond = x <= -LEAST_UNSEEN
        self.beyond.assign(tf.maximum(self.beyond.value, tf.cast(tf.reduce_any(beyond), tf.float32)))
        return tf.where(beyond, 0.0, x)

    @property
    def has_masked(self) -> bool:
        """Whether masked values came out of an operation whose inside is not traced."""
        return self.beyond is not None and bool(self.beyond.numpy())

    def _moves(self):
        low, _ = self.now()
        return tf.cast(tf.abs(low - self.low.value) <= 1e-6 * tf.abs(low), tf.float32)


class BeforeSoftmax:
    """The range of the input of a `Softmax` layer after its `mask` argument is applied: that of the input, extended
    downwards. It has no state: it follows from its source."""

    def __init__(self, source: Range, ends_of: Callable[[], tuple]):
        self.source, self.ends_of = source, ends_of

    def pair(self) -> tuple[float, float] | None:
        if self.source.pair() is None:
            return None
        low, high = self.ends_of()
        return float(low), float(high)
