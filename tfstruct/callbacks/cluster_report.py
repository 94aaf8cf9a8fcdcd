"""What sharing weights did."""

import dataclasses
import math
from typing import ClassVar

from tfstruct.reporting import Plotted, Report, Sheet
from tfstruct.reporting.tables import counted


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
class ClusterReport(Plotted, Report):
    """The values that are left. `plot` draws bits a weight and error by kernel.

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

    _derived: ClassVar[tuple[str, ...]] = ("weights", "entropy")
    _panels: ClassVar[int] = 2

    @property
    def weights(self) -> int:
        return sum(row.weights for row in self.layers)

    @property
    def entropy(self) -> float:
        """Bits a weight, over all kernels."""
        return sum(row.weights * row.entropy for row in self.layers) / self.weights

    def sheet(self) -> Sheet:
        what = "codewords" if self.share == "product" else "values"
        title = (
            f"{self.weights:,} weights share {self.n_clusters} {what} a {self.per} ({self.share}), "
            f"{counted(self.steps, 'step')}: {self.entropy:.2f} bits a weight"
        )
        columns = (
            "weight", "shape", ("weights", ",d"), ("values", ",d"), ("zeros", ",d"), ("bits a weight", ".2f"),
            ("error", ".4f"),
        )  # fmt: skip
        rows = [
            (row.name, row.shape, row.weights, row.values, row.zeros, row.entropy, row.error) for row in self.layers
        ]
        return Sheet(title, columns, rows, left_alone=self.skipped, notes=self.notes)

    def _size(self) -> tuple[float, float]:
        return 9, 1 + 0.25 * max(len(self.layers), 8)

    def _draw(self, bits, errors) -> None:
        rows = self.layers[::-1]
        bits.barh([row.name for row in rows], [row.entropy for row in rows])
        bits.axvline(math.log2(self.n_clusters), color="black", linewidth=0.5)
        bits.set(xlabel="bits a weight")
        errors.barh(range(len(rows)), [row.error for row in rows])
        errors.set_yticks([])
        errors.set(xlabel="relative error before training")
