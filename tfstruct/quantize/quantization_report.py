"""What quantization-aware training or calibration found."""

import dataclasses
from typing import Any

from tfstruct.graph.opening import OpenedModel
from tfstruct.quantize.scheme import Scheme
from tfstruct.quantize.simulation import Simulation
from tfstruct.reporting import OpenedReport, Plotted, Sheet
from tfstruct.reporting.figures import signed_logarithmic
from tfstruct.reporting.tables import counted

_APART = 30  # ends of ranges that differ by more times cannot be read on one linear axis


@dataclasses.dataclass(frozen=True)
class QuantizedActivation:
    """A range: values between `low` and `high` in integers of `bits`, shared by all layers of a group."""

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
class QuantizationReport(Plotted, OpenedReport):
    """What is rounded. `plot` draws the ranges, one bar each.

    Attributes:
        steps: of training; None where a trained model was calibrated.
        activations: the ranges.
        kernels: (weight, bits) of those that were rounded.
        skipped: (layer, why its values are not rounded).
    """

    scheme: Scheme
    steps: int | None
    activations: tuple[QuantizedActivation, ...]
    kernels: tuple[tuple[str, int], ...]
    skipped: tuple[tuple[str, str], ...]

    def sheet(self) -> Sheet:
        found = "from data" if self.steps is None else f"after {counted(self.steps, 'step')}"
        title = (
            f"{self.scheme.precision}: {counted(len(self.kernels), 'kernel')} and "
            f"{counted(len(self.activations), 'range')} of activations {found}"
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
        ends = [abs(end) for row in rows for end in (row.low, row.high) if end]
        if ends and max(ends) > _APART * min(ends):
            signed_logarithmic(axes, "x", min(ends), min(row.low for row in rows), max(row.high for row in rows))


def quantization_report(simulation: Simulation, opened: OpenedModel, steps: int | None = None) -> QuantizationReport:
    """What a simulation of an opened model rounds: after so many steps of training, or as calibrated."""
    rows = []
    for group, point in simulation.groups.items():
        found, bits = simulation.range_of(group), simulation.activation_bits(point)
        if found is not None and bits is not None:
            rows.append(QuantizedActivation(group, *found, bits))
    grids = ((name, grid.bits) for name, grid in simulation.grids.items())
    kernels = tuple(sorted([*grids, *simulation.constants.kernels]))
    skipped = (*simulation.skipped, *simulation.taken_for_masks())
    return QuantizationReport(
        simulation.scheme, steps, tuple(rows), kernels, skipped, opened=opened.opened, opaque=opened.closed
    )
