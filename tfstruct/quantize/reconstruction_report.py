"""What learned rounding found."""

import dataclasses
import json


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
class Reconstruction:
    """What `adaround` or `blockwise` did.

    Attributes:
        method: "adaround" or "blockwise".
        precision: of the scheme.
        units: in order of execution.
        left: kernels that were rounded to nearest.
    """

    method: str
    precision: str
    units: tuple[Reconstructed, ...]
    left: tuple[str, ...]

    def _title(self) -> str:
        kernels = sum(len(row.kernels) for row in self.units)
        return f"{self.method} to {self.precision}: {kernels} kernels in {len(self.units)} units, {len(self.left)} left"

    def __str__(self) -> str:
        width = max((len(row.unit) for row in self.units), default=0)
        lines = [self._title()]
        for row in self.units:
            lines.append(
                f"  {row.unit:<{width}}  error {row.nearest:.3%} -> {row.after:.3%}, {row.moved:.1%} of weights moved"
            )
        return "\n".join([*lines, *(f"  {name}: rounded to nearest" for name in self.left)])

    def table(self):
        """A rich table of the errors."""
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left")
        table.add_column("unit")
        for name in ("error, nearest", "error, learned", "weights moved", "samples"):
            table.add_column(name, justify="right")
        for row in self.units:
            table.add_row(row.unit, f"{row.nearest:.3%}", f"{row.after:.3%}", f"{row.moved:.1%}", str(row.samples))
        for name in self.left:
            table.add_row(name, "rounded to nearest", "", "", "")
        return table

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def plot(self):
        """A matplotlib figure: the error of each unit, rounded to nearest and as learned."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, max(2, 0.3 * len(self.units))), layout="constrained")
        axes = figure.subplots()
        names = [row.unit for row in self.units[::-1]]
        axes.plot([row.nearest for row in self.units[::-1]], names, "o", fillstyle="none", label="nearest")
        axes.plot([row.after for row in self.units[::-1]], names, "o", label=self.method)
        axes.set(xlabel="power of the error / power of the output", xscale="log", title=self._title())
        axes.legend()
        return figure
