"""Which weights stay: masks from scores, with exact counts. NumPy only.

A kernel is seen as (taps, inputs, outputs): (1, in, out) for a dense layer, (height * width, in, out) for a
convolution.
"""

import dataclasses
import re
from collections.abc import Sequence

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


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Boolean, true at the `count` highest scores; among equal ones the first stay."""
    chosen = np.zeros(scores.size, bool)
    if count <= 0:
        return chosen
    if count >= scores.size:
        return ~chosen
    edge = np.partition(scores, scores.size - count)[scores.size - count]
    chosen[scores > edge] = True
    chosen[np.flatnonzero(scores == edge)[: count - chosen.sum()]] = True
    return chosen


def highest_in_runs(scores: np.ndarray, n: int, m: int) -> np.ndarray:
    """`scores` (taps, inputs, outputs); boolean, false at the `n` lowest of each run of `m` inputs."""
    taps, inputs, outputs = scores.shape
    filled = np.pad(scores, ((0, 0), (0, -inputs % m), (0, 0)), constant_values=-np.inf)
    runs = filled.reshape(taps, -1, m, outputs)
    # Stable, from the highest: among equal scores the first stay, and what was filled in goes before a weight does.
    order = np.argsort(-runs, axis=2, kind="stable")
    chosen = np.zeros(runs.shape, bool)
    np.put_along_axis(chosen, order[:, :, : m - n], True, axis=2)
    return chosen.reshape(taps, -1, outputs)[:, :inputs]


def choose(scores: Sequence[np.ndarray], ratio: float, pattern: Pattern, together: bool = False) -> list[np.ndarray]:
    """Masks (boolean, true stays) for kernels from the scores of their weights.

    Args:
        scores: for each kernel (taps, inputs, outputs); the score of a unit is the mean over its weights.
        ratio: the share of units that goes. Of each kernel, or `together`: of all kernels as one list, where at least
            one unit of each stays. Units of different sizes count by their weights; then the masks come as close from
            below as whole units do.
        pattern: the units. N:M comes to its N step by step: of each run, as many go as `ratio * m` has whole.
    """
    if pattern.kind == "n:m":
        gone = min(int(ratio * pattern.m + 1e-6), pattern.n)
        return [highest_in_runs(s, gone, pattern.m) for s in scores]
    units = [pattern.units(s) for s in scores]
    if together:
        chosen = _highest_together(units, [s.size // u.size for s, u in zip(scores, units, strict=True)], ratio)
    else:
        chosen = [highest(u, kept(u.size, ratio)) for u in units]
    return [pattern.spread(c, s.shape) for c, s in zip(chosen, scores, strict=True)]


def _highest_together(units: Sequence[np.ndarray], sizes: Sequence[int], ratio: float) -> list[np.ndarray]:
    safe = [np.argmax(u) for u in units]  # the best unit of each kernel stays
    scores = np.concatenate([u.astype(float) for u in units])
    starts = np.cumsum([0, *(u.size for u in units)])
    scores[[start + best for start, best in zip(starts, safe, strict=False)]] = np.inf
    weights = np.repeat(sizes, [u.size for u in units])
    total = int(weights.sum())
    gone = total - kept(total, ratio)
    if len(set(sizes)) == 1:
        chosen = highest(scores, scores.size - gone // sizes[0])
        chosen |= np.isinf(scores) & (scores > 0)
    else:
        order = np.argsort(scores, kind="stable")
        # From the lowest, each unit that still fits.
        chosen, left = np.ones(scores.size, bool), gone
        for i in order:
            if weights[i] <= left and scores[i] < np.inf:
                chosen[i] = False
                left -= weights[i]
    return np.split(chosen, starts[1:-1])
