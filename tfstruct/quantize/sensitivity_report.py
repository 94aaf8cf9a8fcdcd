"""What layers lose by quantization, one at a time."""

import dataclasses

from tfstruct.reporting import OpenedReport, Plotted, Sheet
from tfstruct.reporting.tables import counted


@dataclasses.dataclass(frozen=True)
class LayerSensitivity:
    """One layer quantized, all others in float.

    Attributes:
        layer: the path of the first of those that are fused.
        layers: the paths of all of them.
        precision: of its weights and of what it makes.
        sqnr_db: of the model's outputs.
        score: the metric; None without labels.
    """

    layer: str
    layers: tuple[str, ...]
    precision: str
    sqnr_db: float
    score: float | None = None

    @property
    def noise(self) -> float:
        """Power of the error in the outputs, as a share of the outputs' own: 10^(-SQNR / 10)."""
        return 10 ** (-self.sqnr_db / 10)


@dataclasses.dataclass(frozen=True)
class QuantizationSensitivity(Plotted, OpenedReport):
    """What `sensitivity` measured. `plot` draws the SQNR by layer and precision.

    Attributes:
        model: its name.
        samples: how many were run.
        metric, baseline: name of the metric and its value in float; None without labels.
        rows: by layer in order of execution, and by precision.
    """

    model: str
    samples: int
    metric: str | None
    baseline: float | None
    rows: tuple[LayerSensitivity, ...]

    def worst(self, precision: str) -> list[LayerSensitivity]:
        """The layers in one precision, those that lose most first."""
        return sorted((row for row in self.rows if row.precision == precision), key=lambda row: row.sqnr_db)

    def sheet(self) -> Sheet:
        scored = "" if self.metric is None else f", {self.metric} in float {self.baseline:.4f}"
        title = f"{self.model}: one layer quantized at a time, {counted(self.samples, 'sample')}{scored}"
        columns = ["layer", "precision", ("SQNR, dB", ".1f")]
        columns += [] if self.baseline is None else [(f"change of {self.metric}", "+.4f")]
        rows = []
        for row in sorted(self.rows, key=lambda row: row.sqnr_db):
            change = None if row.score is None or self.baseline is None else row.score - self.baseline
            rows.append((row.layer, row.precision, row.sqnr_db, change)[: len(columns)])
        return Sheet(title, columns, rows)

    def _layers(self) -> list[str]:
        return list(dict.fromkeys(row.layer for row in self.rows))

    def _size(self) -> tuple[float, float]:
        return 7, 1.2 + 0.3 * max(len(self._layers()), 4)

    def _draw(self, axes) -> None:
        layers = self._layers()
        for precision, marker in zip(dict.fromkeys(row.precision for row in self.rows), "osD^vX", strict=False):
            rows = [row for row in self.rows if row.precision == precision]
            axes.plot([row.sqnr_db for row in rows], [layers.index(row.layer) for row in rows], marker, label=precision)
        axes.set_yticks(range(len(layers)), layers)
        axes.invert_yaxis()
        axes.set(xlabel="SQNR of the outputs, dB", title="one layer quantized at a time")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the points, which may lie anywhere
