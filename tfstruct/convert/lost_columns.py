"""Which columns of an output lose most: a small column beside a large one vanishes in the error of the whole."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

# A column so far below its output, and not good by itself, is lost: its noise is that of something else's scale.
_BELOW_DB = 20.0
_GOOD_DB = 30.0
# Largest share of a column's (an output's) values by which they may differ and still count as one value.
_CONSTANT, _NOTHING = 1e-3, 1e-6
_LISTED = 16
_MOST = 1 << 16


@dataclasses.dataclass(frozen=True)
class Column:
    """One index along an axis of an output that the file does not follow.

    Attributes:
        index: its place on the axis.
        sqnr_db: signal to quantization noise of its values alone.
        low, high: between which values it lies in Keras.
        constant: True if it varies in Keras and is one value in the file.
    """

    index: int
    sqnr_db: float
    low: float
    high: float
    constant: bool


@dataclasses.dataclass(frozen=True)
class LostColumns:
    """Columns of one axis that are lost.

    Attributes:
        axis: of the output, the batch axis included; -1 is the last.
        size: number of columns.
        count: how many of them are lost.
        columns: the worst of them, in the order of their places.
    """

    axis: int
    size: int
    count: int
    columns: tuple[Column, ...]


class _Sums(NamedTuple):
    """Arrays by column: the sums of the squares of Keras's values and of the errors, and where both models' values
    end."""

    kk: np.ndarray
    noise: np.ndarray
    low: np.ndarray
    high: np.ndarray
    file_low: np.ndarray
    file_high: np.ndarray

    def joined(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.kk + other.kk,
            self.noise + other.noise,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            np.minimum(self.file_low, other.file_low),
            np.maximum(self.file_high, other.file_high),
        )

    def sqnr_db(self) -> np.ndarray:
        """By column; infinite where the file is exact."""
        with np.errstate(all="ignore"):
            return np.where(self.noise == 0, np.inf, 10 * np.log10(self.kk / self.noise))


class ColumnSums:
    """Sums over all values but those along one axis: memory grows with the axis, not with the samples."""

    def __init__(self, axis: int):
        self.axis = axis
        self._sums: _Sums | None = None
        self._usable = True

    def add(self, k: np.ndarray, t: np.ndarray) -> None:
        if not self._usable or not k.size:
            return
        size = k.shape[self.axis]
        if size < 2 or size > _MOST or (self._sums is not None and len(self._sums.kk) != size):
            self._usable = False  # an open axis, whose columns are others from batch to batch
            self._sums = None
            return
        k, t = (np.moveaxis(v, self.axis, -1).reshape(-1, size) for v in (k, t))
        more = _Sums(np.square(k).sum(0), np.square(k - t).sum(0), k.min(0), k.max(0), t.min(0), t.max(0))
        self._sums = more if self._sums is None else self._sums.joined(more)

    def lost(self, count: int, whole_db: float, tolerance: float) -> LostColumns | None:
        """The columns that are lost.

        Args:
            count: number of values of the output.
            whole_db: SQNR of the whole output.
            tolerance: an error of a column that is always taken as fine, in the output's units.
        """
        sums = self._sums
        if sums is None:
            return None
        decibels = sums.sqnr_db()
        magnitude = np.maximum(np.abs(sums.low), np.abs(sums.high))
        spread = sums.high - sums.low
        varies = (spread > _CONSTANT * magnitude) & (spread > _NOTHING * magnitude.max()) & (spread > tolerance)
        error = np.sqrt(sums.noise * len(sums.kk) / count)
        constant = varies & (sums.file_low == sums.file_high) & (sums.noise > 0)
        weak = (decibels < min(whole_db - _BELOW_DB, _GOOD_DB)) & (magnitude > _NOTHING * magnitude.max())
        if self.axis != -1:  # places of a series or a picture may well be fainter than others
            weak &= False
        found = np.flatnonzero(constant | (weak & (error > tolerance)))
        if not len(found):
            return None
        worst = sorted(found[np.argsort(decibels[found], kind="stable")][:_LISTED])
        columns = (
            Column(int(i), float(decibels[i]), float(sums.low[i]), float(sums.high[i]), bool(constant[i]))
            for i in worst
        )
        return LostColumns(self.axis, len(sums.kk), len(found), tuple(columns))

    def worst_db(self) -> float | None:
        return None if self._sums is None else float(self._sums.sqnr_db().min(initial=math.inf))
