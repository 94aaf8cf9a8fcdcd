"""What `mixed_precision` chose, and what it costs."""

import dataclasses

from tfstruct.reporting import OpenedReport, Sheet
from tfstruct.reporting.tables import counted


@dataclasses.dataclass(frozen=True)
class ChosenPrecision:
    """The precision of the layers that are one operator of the file.

    Attributes:
        layer: path of the first of them.
        precision: chosen.
        error: the share of error power in the outputs with this layer alone in that precision.
        cost: of the layer, in the budget's figure: its bytes, or the microseconds more than in the base precision.
    """

    layer: str
    precision: str
    error: float
    cost: float


@dataclasses.dataclass(frozen=True)
class PrecisionReport(OpenedReport):
    """Which precision each layer got, and why: the error that it adds and what it costs.

    Attributes:
        model: its name.
        base: the precision of the scheme, which layers have that are not named in it.
        figure: of the budget: `"tflite_bytes"` (an upper bound) or `"latency_us"`.
        whole: the figure with all layers in the base precision.
        limit: the budget, absolute.
        reached: the figure of the scheme, at most the limit.
        rows: by layer, in order of execution.
    """

    model: str
    base: str
    figure: str
    whole: float
    limit: float
    reached: float
    rows: tuple[ChosenPrecision, ...]

    def sheet(self) -> Sheet:
        others = sum(row.precision != self.base for row in self.rows)
        title = (
            f"{self.model}: {self.base}, {counted(others, 'layer')} of {len(self.rows)} in another precision, "
            f"{self.figure} {self.whole:,.0f} -> {self.reached:,.0f} (budget {self.limit:,.0f})"
        )
        cost = "bytes" if self.figure == "tflite_bytes" else "µs more"
        columns = ("layer", "precision", ("error in the outputs", ".3%"), (cost, ",.0f"))
        rows = [(row.layer, row.precision, row.error, row.cost) for row in self.rows]
        return Sheet(title, columns, rows)
