"""What pruning did: sparsity by weight, over time, and what was left alone."""

import dataclasses
from typing import Any, ClassVar

from tfstruct.reporting import Plotted, Report, Sheet


@dataclasses.dataclass(frozen=True)
class SparseWeight:
    """One pruned weight: its name (layer path and weight), shape, and how many of its values are zero."""

    name: str
    shape: tuple[int, ...]
    weights: int
    zeros: int

    @property
    def sparsity(self) -> float:
        return self.zeros / self.weights


@dataclasses.dataclass(frozen=True)
class SparsityReport(Plotted, Report):
    """The sparsity that was reached. `plot` draws it over the steps, and by weight.

    Attributes:
        pattern, criterion, scope: the settings.
        asked: the ratio that the schedule ends with, of the units of the pattern.
        layers: one row for each pruned weight.
        skipped: (weight, why it was left alone).
        history: (step, ratio asked, share of zero weights), each time masks were chosen.
        notes: what a user should know, in words.
    """

    pattern: str
    criterion: str
    scope: str
    asked: float
    layers: tuple[SparseWeight, ...]
    skipped: tuple[tuple[str, str], ...]
    history: tuple[tuple[int, float, float], ...]
    notes: tuple[str, ...] = ()

    _derived: ClassVar[tuple[str, ...]] = ("sparsity",)
    _panels: ClassVar[int] = 2

    @property
    def zeros(self) -> int:
        return sum(row.zeros for row in self.layers)

    @property
    def weights(self) -> int:
        return sum(row.weights for row in self.layers)

    @property
    def sparsity(self) -> float:
        """The share of zeros among all pruned weights."""
        return self.zeros / self.weights

    def sheet(self) -> Sheet:
        title = (
            f"{self.zeros:,} of {self.weights:,} weights are zero: sparsity {self.sparsity:.4f}, asked "
            f"{self.asked:.4g} ({self.pattern}, {self.criterion}, by {self.scope})"
        )
        columns = ("weight", "shape", ("weights", ",d"), ("zeros", ",d"), ("sparsity", ".4f"))
        rows = [(row.name, row.shape, row.weights, row.zeros, row.sparsity) for row in self.layers]
        return Sheet(title, columns, rows, left_alone=self.skipped, notes=self.notes)

    def to_dict(self) -> dict[str, Any]:
        data = super().to_dict()
        for plain, row in zip(data["layers"], self.layers, strict=True):
            plain["sparsity"] = row.sparsity
        return data

    def _size(self) -> tuple[float, float]:
        return 9, 1 + 0.25 * max(len(self.layers), 8)

    def _draw(self, over_time, by_weight) -> None:
        steps = [step for step, _, _ in self.history]
        over_time.step(steps, [ratio for _, ratio, _ in self.history], where="post", label="asked")
        over_time.plot(steps, [share for _, _, share in self.history], "o", markersize=3, label="reached")
        over_time.set(xlabel="step", ylabel="sparsity", ylim=(0, 1))
        if len(steps) == 1:  # masks were chosen once and hold from then on
            over_time.axhline(self.history[0][1])
            over_time.set(xlim=(steps[0], steps[0] + 1), xticks=steps)
        over_time.legend()
        names = [row.name for row in self.layers][::-1]
        by_weight.barh(names, [row.sparsity for row in self.layers][::-1])
        by_weight.set(xlabel="sparsity", xlim=(0, 1))
