"""What pruning did: sparsity by weight, over time, and what was left alone."""

import dataclasses
import json


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
class SparsityReport:
    """The sparsity that was reached.

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

    def _title(self) -> str:
        return (
            f"{self.zeros:,} of {self.weights:,} weights are zero: sparsity {self.sparsity:.4f}, asked "
            f"{self.asked:.4g} ({self.pattern}, {self.criterion}, by {self.scope})"
        )

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.layers)
        lines = [self._title()]
        lines += [
            f"  {row.name:<{width}}  {'x'.join(map(str, row.shape)):>14}  {row.zeros:>10,} of {row.weights:>10,}"
            f"  {row.sparsity:.4f}"
            for row in self.layers
        ]
        lines += [f"  {name}: left alone, {why}" for name, why in self.skipped]
        return "\n".join([*lines, *self.notes])

    def table(self):
        """A rich table, one row for each pruned weight."""
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left")
        table.add_column("weight")
        for name in ("shape", "weights", "zeros", "sparsity"):
            table.add_column(name, justify="right")
        for row in self.layers:
            shape = " x ".join(map(str, row.shape))
            table.add_row(row.name, shape, f"{row.weights:,}", f"{row.zeros:,}", f"{row.sparsity:.4f}")
        for name, why in self.skipped:
            table.add_row(name, "", "", "", f"left alone: {why}")
        return table

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        data = dataclasses.asdict(self)
        rows = [{**row, "sparsity": one.sparsity} for row, one in zip(data["layers"], self.layers, strict=True)]
        return {**data, "layers": rows, "sparsity": self.sparsity}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def plot(self):
        """A matplotlib figure: sparsity over the steps, and by weight."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, max(3, 0.25 * len(self.layers))), layout="constrained")
        over_time, by_weight = figure.subplots(1, 2)
        steps = [step for step, _, _ in self.history]
        over_time.step(steps, [ratio for _, ratio, _ in self.history], where="post", label="asked")
        over_time.plot(steps, [share for _, _, share in self.history], "o", markersize=3, label="reached")
        over_time.set(xlabel="step", ylabel="sparsity", ylim=(0, 1))
        over_time.legend()
        names = [row.name for row in self.layers][::-1]
        by_weight.barh(names, [row.sparsity for row in self.layers][::-1])
        by_weight.set(xlabel="sparsity", xlim=(0, 1))
        return figure
