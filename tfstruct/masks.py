"""Which weights stay: masks from scores, with exact counts. NumPy only.

A kernel is seen as (taps, inputs, outputs): (1, in, out) for a dense layer, (height * width, in, out) for a
convolution.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tfstruct.errors import ArgumentError

NAMES = '"element", "block", "row", "filter", or N:M such as "2:4"'


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The units that go or stay as one.

    - `element`: each weight.
    - `block`: rectangles of `block` = (rows, columns) in the matrix (taps * inputs, outputs).
    - `row`: all weights that read one input channel; in a grouped convolution, one of each group.
    - `filter`: all weights that make one output channel.
    - `n:m`: each weight; in every run of `m` input channels exactly `n` are zero. A last run that is shorter is filled
      up with zeros, which count among the `n`.
    """

    kind: str
    block: tuple[int, int] = (1, 1)
    n: int = 0
    m: int = 0

    @classmethod
    def parse(cls, pattern: "str | Pattern", block: Sequence[int] | None = None) -> "Pattern":
        """A pattern from its name.

        Raises:
            ArgumentError: an unknown name, a block without its size, or N:M with N not in 1..M-1.
        """
        if isinstance(pattern, cls):
            return pattern
        n = m = 0
        sparse = re.fullmatch(r"(\d+):(\d+)", pattern) if isinstance(pattern, str) else None
        if sparse:
            n, m = int(sparse[1]), int(sparse[2])
            if not 0 < n < m:
                raise ArgumentError(
                    f"N:M sets N of each M weights to zero: N must be in 1..M-1. Received: {pattern!r}."
                )
            kind = "n:m"
        elif pattern == "block":
            if block is None or len(tuple(block)) != 2 or not all(isinstance(b, int) and b > 0 for b in block):
                raise ArgumentError(
                    f"Pattern 'block' needs `block=(rows, columns)`, two positive integers. Received: {block}."
                )
            rows, columns = block
            return cls("block", (rows, columns))
        elif pattern in ("element", "row", "filter"):
            kind = pattern
        else:
            raise ArgumentError(f"`pattern` must be {NAMES}. Received: {pattern!r}.")
        if block is not None:
            raise ArgumentError(f"`block` goes with pattern='block'. Received: block={block} with {pattern!r}.")
        return cls(kind, n=n, m=m)

    def __str__(self) -> str:
        if self.kind == "block":
            return f"block {self.block[0]}x{self.block[1]}"
        return f"{self.n}:{self.m}" if self.kind == "n:m" else self.kind

    @property
    def ratio(self) -> float | None:
        """The sparsity that the pattern itself sets; None where it is free."""
        return self.n / self.m if self.kind == "n:m" else None

    def misfit(self, shape: tuple[int, int, int]) -> str | None:
        """Why a kernel of this shape has no such units; None if it has."""
        taps, inputs, outputs = shape
        if self.kind == "block" and (taps * inputs % self.block[0] or outputs % self.block[1]):
            return f"its {taps * inputs} x {outputs} matrix does not divide into blocks of {self.block}"
        if self.kind in ("n:m", "row") and inputs == 1:
            return "each of its outputs reads one input channel only"
        return None

    def units(self, values: np.ndarray) -> np.ndarray:
        """The mean of `values`, shaped (taps, inputs, outputs), in each unit; 1-D."""
        taps, inputs, outputs = values.shape
        if self.kind == "block":
            rows, columns = self.block
            tiles = values.reshape(taps * inputs // rows, rows, outputs // columns, columns)
            return tiles.mean((1, 3)).ravel()
        if self.kind == "row":
            return values.mean((0, 2))
        return values.mean((0, 1)) if self.kind == "filter" else values.ravel()

    def spread(self, units: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """A value for each unit as a value for each weight, shaped (taps, inputs, outputs)."""
        taps, inputs, outputs = shape
        if self.kind == "block":
            rows, columns = self.block
            tiles = units.reshape(taps * inputs // rows, 1, outputs // columns, 1)
            whole = np.broadcast_to(tiles, (taps * inputs // rows, rows, outputs // columns, columns))
            return whole.reshape(shape)
        if self.kind == "row":
            return np.broadcast_to(units[None, :, None], shape)
        return np.broadcast_to(units, shape) if self.kind == "filter" else units.reshape(shape)


def kept(count: int, ratio: float) -> int:
    """How many of `count` units stay: max(round(count * (1 - ratio)), 1), half to even."""
    return max(round(count * (1 - ratio)), 1) if count else 0


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of a kernel's weights, which are computed chunk by chunk each time they are looked at.

    Attributes:
        read: gives an array (taps, inputs, outputs), the same each time.
        key: what makes scores of it, by weight, in a new array; None: they are.
        alive: boolean; where it is false, the score is below every other. None: true everywhere.
    """

    read: Callable[[], np.ndarray]
    key: Callable[[np.ndarray], np.ndarray] | None = None
    alive: np.ndarray | None = None

    def whole(self) -> np.ndarray:
        return _scored(self.read(), self.key, self.alive)


def _scored(values: np.ndarray, key: Callable | None, alive: np.ndarray | None) -> np.ndarray:
    scores = values if key is None else key(values)
    if alive is None:
        return scores
    # Without a branch for each, several times as fast as `where`.
    return np.minimum(scores, np.array([-np.inf, np.inf], scores.dtype).take(alive.view(np.uint8)))


_CHUNK = 1 << 16  # scores: what is made of them stays in the cache
_SAMPLE = 1 << 15


class _Units:
    """The scores of a kernel's units in one list.

    Attributes:
        first: the place of one that counts as higher than all others; None: there is no such.
    """

    def __init__(self, scores: Scores, pattern: Pattern):
        if pattern.kind == "element":
            self._read = lambda: scores.read().ravel()
            self._key, self._alive = scores.key, None if scores.alive is None else scores.alive.ravel()
        else:
            units = pattern.units(scores.whole())
            self._read, self._key, self._alive = (lambda: units), None, None
        self.size = self._read().size
        self.first: int | None = None

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        values = self._read()
        for start in range(0, self.size, _CHUNK):
            place = slice(start, min(start + _CHUNK, self.size))
            scores = _scored(values[place], self._key, None if self._alive is None else self._alive[place])
            if self.first is not None and start <= self.first < place.stop:
                scores = scores.copy()
                scores[self.first - start] = np.inf
            yield place, scores

    def sampled(self, count: int, random: np.random.Generator) -> np.ndarray:
        """`count` scores by chance."""
        places = random.integers(0, self.size, count)
        return _scored(self._read()[places], self._key, None if self._alive is None else self._alive[places])

    def best(self) -> int:
        """The place of the highest, the first among equals."""
        tops = [(scores.max(), place.start + int(scores.argmax())) for place, scores in self.chunks()]
        return max(tops, key=lambda top: (top[0], -top[1]))[1]

    def chosen(self, edge, ties: int) -> tuple[np.ndarray, int]:
        """Boolean, true above `edge` and at the first `ties` that equal it; and how many of these there were."""
        chosen, found = np.empty(self.size, bool), 0
        for place, scores in self.chunks():
            np.greater(scores, edge, out=chosen[place])
            if found < ties:
                equal = place.start + np.flatnonzero(scores == edge)[: ties - found]
                chosen[equal] = True
                found += equal.size
        return chosen, found


def _edge(units: Sequence[_Units], count: int) -> tuple[np.floating, int]:
    """The `count`-th highest of all scores, and how many that equal it are among the highest. `count` is at least 1.

    Drawn ones tell between which two it nearly surely is, so that only what lies between them has to be partitioned
    (Floyd and Rivest 1975, "Expected time bounds for selection").
    """
    total, random = sum(one.size for one in units), np.random.default_rng(0)
    sample = np.sort(np.concatenate([one.sampled(-(-_SAMPLE * one.size // total), random) for one in units]))
    place = len(sample) * (1 - count / total)
    margin = 5 * (len(sample) * count / total * (1 - count / total)) ** 0.5 + 1
    low = sample[int(place - margin)] if place >= margin else -np.inf
    high = sample[int(place + margin)] if place + margin < len(sample) else np.inf
    while True:
        above, between = 0, []
        for _, scores in itertools.chain(*(one.chunks() for one in units)):
            over = scores > high
            above += int(np.count_nonzero(over))
            between.append(scores[(scores >= low) ^ over])
        found = np.concatenate(between)
        if above < count <= above + found.size:
            break
        if low == -np.inf and high == np.inf:
            raise ArgumentError("Scores must be numbers. Received: NaN among them.")
        low, high = -np.inf, np.inf  # it was not between them
    edge = np.partition(found, found.size - (count - above))[found.size - (count - above)]
    return edge, count - above - int(np.count_nonzero(found > edge))


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Boolean, true at the `count` highest scores of a list; among equal ones the first stay."""
    return _highest(_Units(Scores(lambda: scores), Pattern("element")), count)


def _highest(units: _Units, count: int) -> np.ndarray:
    if not 0 < count < units.size:
        return np.full(units.size, count > 0)
    return units.chosen(*_edge([units], count))[0]


def highest_in_runs(scores: np.ndarray, n: int, m: int) -> np.ndarray:
    """`scores` (taps, inputs, outputs); boolean, false at the `n` lowest of each run of `m` inputs."""
    taps, inputs, outputs = scores.shape
    filled = np.pad(scores, ((0, 0), (0, -inputs % m), (0, 0)), constant_values=-np.inf) if inputs % m else scores
    runs = filled.reshape(taps, -1, m, outputs)
    # How many of its run are higher: among equal scores the first stay, and what was filled in goes before a weight.
    higher = np.zeros(runs.shape, np.min_scalar_type(m))
    for later in range(m):
        for first in range(later):
            over = runs[:, :, later] > runs[:, :, first]
            higher[:, :, first] += over
            higher[:, :, later] += ~over
    return (higher < m - n).reshape(taps, -1, outputs)[:, :inputs]


def choose(
    scores: Sequence[np.ndarray | Scores], ratio: float, pattern: Pattern, together: bool = False
) -> list[np.ndarray]:
    """Masks (boolean, true stays) for kernels from the scores of their weights.

    Args:
        scores: for each kernel (taps, inputs, outputs); the score of a unit is the mean over its weights.
        ratio: the share of units that goes. Of each kernel, or `together`: of all kernels as one list, where at least
            one unit of each stays. Units of different sizes count by their weights; then the masks come as close from
            below as whole units do.
        pattern: the units. N:M comes to its N step by step: of each run, as many go as `ratio * m` has whole.
    """
    return list(chosen(scores, ratio, pattern, together))


def chosen(
    scores: Sequence[np.ndarray | Scores], ratio: float, pattern: Pattern, together: bool = False
) -> Iterator[np.ndarray]:
    """What `choose` returns, one after the other; a kernel is not read any more once its mask has come."""
    every = [s if isinstance(s, Scores) else Scores(functools.partial(np.asarray, s)) for s in scores]
    shapes = [s.read().shape for s in every]
    if pattern.kind == "n:m":
        gone = min(int(ratio * pattern.m + 1e-6), pattern.n)
        yield from (highest_in_runs(s.whole(), gone, pattern.m) for s in every)
        return
    lists = (_Units(s, pattern) for s in every)
    if together:
        units = list(lists)
        found = _highest_together(units, [math.prod(s) // u.size for u, s in zip(units, shapes, strict=True)], ratio)
    else:
        found = (_highest(one, kept(one.size, ratio)) for one in lists)
    yield from (pattern.spread(mask, shape) for mask, shape in zip(found, shapes, strict=True))


def _highest_together(units: Sequence[_Units], sizes: Sequence[int], ratio: float) -> Iterator[np.ndarray]:
    for one in units:
        one.first = one.best()  # the best unit of each kernel stays
    total = sum(one.size * size for one, size in zip(units, sizes, strict=True))
    gone = total - kept(total, ratio)
    if len(set(sizes)) > 1:
        yield from _fitting_together(units, sizes, gone)
        return
    count = sum(one.size for one in units) - gone // sizes[0]
    edge, ties = _edge(units, count)
    for one in units:
        mask, equal = one.chosen(edge, ties)
        mask[one.first] = True
        ties -= equal
        yield mask


def _fitting_together(units: Sequence[_Units], sizes: Sequence[int], gone: int) -> list[np.ndarray]:
    """From the lowest on, each unit goes that still fits into `gone` weights."""
    scores = np.concatenate([np.asarray(chunk, float) for one in units for _, chunk in one.chunks()])
    weights = np.repeat(sizes, [one.size for one in units])
    chosen = np.ones(scores.size, bool)
    for i in np.argsort(scores, kind="stable"):
        if weights[i] <= gone and scores[i] < np.inf:
            chosen[i] = False
            gone -= weights[i]
    return np.split(chosen, np.cumsum([one.size for one in units])[:-1])
