"""`Sum`: a figure as a sum of arrays, each by the alternatives of a few parts: added, multiplied, read off."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

Terms = Mapping[tuple[str, ...], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
    """A function of a choice: of each term the entry at the alternatives that are picked, added up.

    Attributes:
        terms: parts, sorted by name -> an array with an axis for each.
    """

    terms: Terms

    @classmethod
    def of(cls, value: float) -> "Sum":
        """The same for every choice."""
        return cls({(): np.asarray(float(value))} if value else {})

    @classmethod
    def by(cls, part: str, values: Sequence[float] | np.ndarray) -> "Sum":
        """By the alternative of one part."""
        return cls({(part,): np.asarray(values, float)})

    @classmethod
    def where(cls, part: str, count: int, at: Iterable[int]) -> "Sum":
        """1 where one of these alternatives of `count` is picked, else 0."""
        return cls.by(part, np.isin(np.arange(count), list(at)).astype(float))

    @classmethod
    def joint(cls, parts: Sequence[str], values: np.ndarray) -> "Sum":
        """By the alternatives of several parts, in any order."""
        order = sorted(range(len(parts)), key=lambda i: parts[i])
        return cls({tuple(parts[i] for i in order): np.asarray(values, float).transpose(order)})

    def __add__(self, other: "Sum") -> "Sum":
        found = dict(self.terms)
        for parts, values in other.terms.items():
            found[parts] = found[parts] + values if parts in found else values
        return Sum(found)

    def __mul__(self, other: "Sum | float") -> "Sum":
        if not isinstance(other, Sum):
            return Sum({parts: values * other for parts, values in self.terms.items()} if other else {})
        found = Sum({})
        for mine, a in self.terms.items():
            for theirs, b in other.terms.items():
                parts = tuple(sorted({*mine, *theirs}))
                found += Sum({parts: along(mine, a, parts) * along(theirs, b, parts)})
        return found

    def __sub__(self, other: "Sum") -> "Sum":
        return self + other * -1.0

    @property
    def parts(self) -> tuple[str, ...]:
        """All that it depends on."""
        return tuple(sorted({part for parts in self.terms for part in parts}))

    def at(self, picked: Mapping[str, int]) -> float:
        """The value at a choice."""
        return sum(float(values[tuple(picked[part] for part in parts)]) for parts, values in self.terms.items())

    @property
    def base(self) -> float:
        """The value where all parts are as they are."""
        return sum(float(values.flat[0]) for values in self.terms.values())

    def together(self) -> np.ndarray:
        """All of it as one array with an axis for each of `parts`."""
        parts, whole = self.parts, np.zeros(())
        for own, values in self.terms.items():
            whole = whole + along(own, values, parts)
        return whole

    def reduced(self) -> "Sum":
        """Without axes along which nothing changes, and without terms that are zero or part of another."""
        found = Sum({})
        for parts, values in self.terms.items():
            for axis in reversed(range(len(parts))):
                first = np.take(values, [0], axis)
                if np.array_equal(np.broadcast_to(first, values.shape), values):
                    values, parts = np.take(values, 0, axis), (*parts[:axis], *parts[axis + 1 :])
            if values.any():
                found += Sum({parts: values})
        return found


def total(sums: Iterable[Sum]) -> Sum:
    """Their sum."""
    found: dict[tuple[str, ...], np.ndarray] = {}
    for one in sums:
        for parts, values in one.terms.items():
            found[parts] = found[parts] + values if parts in found else values
    return Sum(found)


def along(mine: Sequence, values: np.ndarray, parts: Sequence) -> np.ndarray:
    """An array with an axis for each of `mine`, as one with an axis for each of `parts`, in which they come in the same
    order; it has size 1 along the others."""
    sizes = dict(zip(mine, values.shape, strict=True))
    return values.reshape([sizes.get(part, 1) for part in parts])
