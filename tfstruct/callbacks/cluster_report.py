"""What sharing weights did."""

import dataclasses
import json
import math


@dataclasses.dataclass(frozen=True)
class SharedWeight:
    """One kernel whose weights share values.

    Attributes:
        name: layer path and weight.
        values: how many distinct values it has.
        zeros: how many of its weights are zero.
        entropy: bits a weight that the best code of its own needs, without the codebook.
        error: |w' - w| / |w|, w before and w' after its weights were put into groups.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    values: int
    zeros: int
    entropy: float
    error: float


@dataclasses.dataclass(frozen=True)
class ClusterReport:
    """The values that are left.

    Attributes:
        share, per, n_clusters: the settings.
        steps: for how many steps they were trained.
        layers: one row for each kernel.
        skipped: (kernel, why it was left alone).
        notes: what a user should know, in words.
    """

    share: str
    per: str
    n_clusters: int
    steps: int
    layers: tuple[SharedWeight, ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> int:
        return sum(row.weights for row in self.layers)

    @property
    def entropy(self) -> float:
        """Bits a weight, over all kernels."""
        return sum(row.weights * row.entropy for row in self.layers) / self.weights

    def _title(self) -> str:
        what = "codewords" if self.share == "product" else "values"
        return (
            f"{self.weights:,} weights share {self.n_clusters} {what} a {self.per} ({self.share}), {self.steps} steps: "
            f"{self.entropy:.2f} bits a weight"
        )

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.layers)
        lines = [self._title()]
        lines += [
            f"  {row.name:<{width}}  {'x'.join(map(str, row.shape)):>14}  {row.values:>6,} values {row.zeros:>9,} zeros"
            f"  {row.entropy:5.2f} bits  error {row.error:.4f}"
            for row in self.layers
        ]
        lines += [f"  {name}: left alone, {why}" for name, why in self.skipped]
        return "\n".join([*lines, *self.notes])

    def table(self):
        """A rich table, one row for each kernel."""
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left")
        table.add_column("weight")
        for name in ("shape", "weights", "values", "zeros", "bits a weight", "error"):
            table.add_column(name, justify="right")
        for row in self.layers:
            table.add_row(
                row.name, " x ".join(map(str, row.shape)), f"{row.weights:,}", f"{row.values:,}", f"{row.zeros:,}",
                f"{row.entropy:.2f}", f"{row.error:.4f}",
            )  # fmt: skip
        for name, why in self.skipped:
            table.add_row(name, "", "", "", "", "", f"left alone: {why}")
        return table

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return {**dataclasses.asdict(self), "weights": self.weights, "entropy": self.entropy}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def plot(self):
        """A matplotlib figure: bits a weight and error, by kernel."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, max(3, 0.25 * len(self.layers))), layout="constrained")
        bits, errors = figure.subplots(1, 2, sharey=True)
        rows = self.layers[::-1]
        bits.barh([row.name for row in rows], [row.entropy for row in rows])
        bits.axvline(math.log2(self.n_clusters), color="black", linewidth=0.5)
        bits.set(xlabel="bits a weight")
        errors.barh([row.name for row in rows], [row.error for row in rows])
        errors.set(xlabel="relative error before training")
        return figure
