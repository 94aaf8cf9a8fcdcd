"""Sums of products of channel counts, evaluated at once for any choice of units."""

from collections.abc import Iterable, Iterator

import numpy as np

from tfstruct.graph import Units


class Counter:
    """How many labels of each registered array stay."""

    def __init__(self, units: Units):
        self._units = units
        self._index: dict[bytes, int] = {}
        self._arrays: list[np.ndarray] = []
        self._flat: tuple[np.ndarray, np.ndarray] | None = None

    def index(self, labels: np.ndarray) -> int:
        """The place of this array's count in what `counts` returns; place 0 holds 1, a factor that changes nothing."""
        labels = np.ravel(labels)
        found = self._index.setdefault(labels.tobytes(), len(self._arrays) + 1)
        if found > len(self._arrays):
            self._arrays.append(labels)
            self._flat = None
        return found

    def labels(self, place: int) -> np.ndarray:
        """The array whose count has this place, above 0."""
        return self._arrays[place - 1]

    def counts(self, keep: np.ndarray | None = None) -> np.ndarray:
        """1, then the count of each array; `keep` is boolean, by unit."""
        if self._flat is None:
            lengths = np.array([len(a) for a in self._arrays], int)
            starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(int) if len(lengths) else lengths
            self._flat = np.concatenate([*self._arrays, np.zeros(1, int)]).astype(int), starts
        flat, starts = self._flat
        if keep is None:
            return np.array([1.0] + [len(a) for a in self._arrays])
        stays = self._units.kept(np.asarray(keep, bool))[flat].astype(float)
        stays[-1] = 0.0  # the sentinel behind the last array
        sums = np.add.reduceat(stays, starts) if len(starts) else stays[:0]
        # reduceat gives the next array's first entry for an empty one.
        sums[[len(a) == 0 for a in self._arrays]] = 0.0
        return np.concatenate([[1.0], sums])


class Terms:
    """Sums of monomials by row: `row += factor * product of counts`."""

    def __init__(self, counter: Counter, rows: int):
        self._counter, self._rows = counter, rows
        self._row: list[int] = []
        self._factor: list[float] = []
        self._places: list[list[int]] = []
        self._made: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def add(self, row: int, factor: float | None, labels: Iterable[np.ndarray | None] = ()) -> None:
        """A factor of None is an unknown size: the row becomes NaN."""
        self._row.append(row)
        self._factor.append(float("nan") if factor is None else float(factor))
        self._places.append([self._counter.index(x) for x in labels if x is not None])
        self._made = None

    def monomials(self) -> Iterator[tuple[int, float, list[np.ndarray]]]:
        """(row, factor, the label arrays whose counts it is multiplied by) of what was added."""
        for row, factor, places in zip(self._row, self._factor, self._places, strict=True):
            yield row, factor, [self._counter.labels(place) for place in places]

    def values(self, counts: np.ndarray) -> np.ndarray:
        """The sum of each row."""
        if self._made is None:
            width = max((len(p) for p in self._places), default=0)
            places = np.zeros((len(self._places), width), int)
            for i, p in enumerate(self._places):
                places[i, : len(p)] = p
            self._made = np.array(self._row, int), np.array(self._factor), places
        row, factor, places = self._made
        return np.bincount(row, factor * counts[places].prod(axis=1), minlength=self._rows)


def axis_sizes(shape, labels) -> tuple[float | None, list[np.ndarray]]:
    """The product of the sizes of the axes without labels (None where one is unknown), and the labelled axes."""
    factor: float | None = 1.0
    held = []
    for n, own in zip(shape, labels, strict=True):
        if own is not None:
            held.append(own)
        elif n is None or factor is None:
            factor = None
        else:
            factor *= n
    return factor, held
