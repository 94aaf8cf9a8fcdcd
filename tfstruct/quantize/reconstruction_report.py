"""What learned rounding found."""

import dataclasses

from tfstruct.reporting import OpenedReport, Plotted, Sheet
from tfstruct.reporting.figures import logarithmic
from tfstruct.reporting.tables import counted


@dataclasses.dataclass(frozen=True)
class Reconstructed:
    """A layer, or a block of layers.

    Attributes:
        unit: its first and last layer.
        kernels: those whose rounding was learned.
        samples: used for it.
        nearest, after: power of the error in what it makes, as a share of its power: rounded to nearest, and as found.
        moved: the share of the weights that are not at their nearest integer.
    """

    unit: str
    kernels: tuple[str, ...]
    samples: int
    nearest: float
    after: float
    moved: float


@dataclasses.dataclass(frozen=True)
class Reconstruction(Plotted, OpenedReport):
    """What `adaround` or `blockwise` did. `plot` draws the error of each unit, rounded to nearest and as learned.

    Attributes:
        method: "adaround" or "blockwise".
        precision: of the scheme.
        units: the layers or blocks that were learned as one, in order of execution.
        left: kernels that were rounded to nearest.
    """

    method: str
    precision: str
    units: tuple[Reconstructed, ...]
    left: tuple[str, ...]

    def _title(self) -> str:
        kernels = counted(sum(len(row.kernels) for row in self.units), "kernel")
        return (
            f"{self.method} to {self.precision}: {kernels} in {counted(len(self.units), 'unit')}, {len(self.left)} left"
        )

    def sheet(self) -> Sheet:
        columns = (
            "unit", ("error, nearest", ".3%"), ("error, learned", ".3%"), ("weights moved", ".1%"), ("samples", ",d"),
        )  # fmt: skip
        rows = [(row.unit, row.nearest, row.after, row.moved, row.samples) for row in self.units]
        return Sheet(self._title(), columns, rows, left_alone=[(name, "rounded to nearest") for name in self.left])

    def _size(self) -> tuple[float, float]:
        return 7, 1.2 + 0.3 * max(len(self.units), 4)

    def _draw(self, axes) -> None:
        names = [row.unit for row in self.units[::-1]]
        axes.plot([row.nearest for row in self.units[::-1]], names, "o", fillstyle="none", label="nearest")
        axes.plot([row.after for row in self.units[::-1]], names, "o", label=self.method)
        axes.set(xlabel="power of the error / power of the output", title=self._title())
        logarithmic(axes, "x")
        axes.legend()
