"""What quantization-aware training found."""

import dataclasses
import json

from tfstruct.quantize.scheme import Scheme


@dataclasses.dataclass(frozen=True)
class QuantizedActivation:
    """A trained range: values between `low` and `high` in integers of `bits`, shared by all layers of a group."""

    group: str
    low: float
    high: float
    bits: int

    @property
    def scale(self) -> float:
        if self.bits == 8:
            return (self.high - self.low) / 255
        return max(-self.low, self.high) / (2 ** (self.bits - 1) - 1)


@dataclasses.dataclass(frozen=True)
class QuantizationReport:
    """What was rounded in training.

    Attributes:
        activations: the trained ranges.
        kernels: (weight, bits) of those that were rounded.
        skipped: (layer, why its values were not rounded in training).
    """

    scheme: Scheme
    steps: int
    activations: tuple[QuantizedActivation, ...]
    kernels: tuple[tuple[str, int], ...]
    skipped: tuple[tuple[str, str], ...]

    def _title(self) -> str:
        return (
            f"{self.scheme.precision}: {len(self.kernels)} kernels and {len(self.activations)} ranges of activations "
            f"after {self.steps} steps"
        )

    def __str__(self) -> str:
        width = max((len(row.group) for row in self.activations), default=0)
        lines = [self._title()]
        for row in self.activations:
            lines.append(f"  {row.group:<{width}}  {row.low:>10.4g} .. {row.high:<10.4g} step {row.scale:.4g}")
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.skipped)])

    def table(self):
        """A rich table of the ranges."""
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left")
        table.add_column("range")
        for name in ("low", "high", "step", "bits"):
            table.add_column(name, justify="right")
        for row in self.activations:
            table.add_row(row.group, f"{row.low:.4g}", f"{row.high:.4g}", f"{row.scale:.4g}", str(row.bits))
        for name, why in self.skipped:
            table.add_row(name, "", "", "", why)
        return table

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        rows = [{**dataclasses.asdict(row), "scale": row.scale} for row in self.activations]
        return {**dataclasses.asdict(self), "activations": rows}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def plot(self):
        """A matplotlib figure: the ranges, one bar each."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, max(2, 0.25 * len(self.activations))), layout="constrained")
        axes = figure.subplots()
        rows = self.activations[::-1]
        axes.barh([r.group for r in rows], [r.high - r.low for r in rows], left=[r.low for r in rows])
        axes.axvline(0, color="black", linewidth=0.5)
        axes.set(xlabel="value", title="ranges of activations")
        return figure
