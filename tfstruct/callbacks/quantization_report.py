"""What quantization-aware training found."""

import dataclasses
from typing import Any

from tfstruct.quantize.scheme import Scheme
from tfstruct.reporting import Plotted, Report, Sheet
from tfstruct.reporting.tables import counted


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
class QuantizationReport(Plotted, Report):
    """What was rounded in training. `plot` draws the ranges, one bar each.

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

    def sheet(self) -> Sheet:
        title = (
            f"{self.scheme.precision}: {counted(len(self.kernels), 'kernel')} and "
            f"{counted(len(self.activations), 'range')} of activations after {counted(self.steps, 'step')}"
        )
        columns = ("range", ("low", ".4g"), ("high", ".4g"), ("step", ".4g"), ("bits", "d"))
        rows = [(row.group, row.low, row.high, row.scale, row.bits) for row in self.activations]
        return Sheet(title, columns, rows, left_alone=self.skipped)

    def to_dict(self) -> dict[str, Any]:
        data = super().to_dict()
        for plain, row in zip(data["activations"], self.activations, strict=True):
            plain["scale"] = row.scale
        return data

    def _size(self) -> tuple[float, float]:
        return 7, 1 + 0.25 * max(len(self.activations), 4)

    def _draw(self, axes) -> None:
        rows = self.activations[::-1]
        axes.barh([r.group for r in rows], [r.high - r.low for r in rows], left=[r.low for r in rows])
        axes.axvline(0, color="black", linewidth=0.5)
        axes.set(xlabel="value", title="ranges of activations")
