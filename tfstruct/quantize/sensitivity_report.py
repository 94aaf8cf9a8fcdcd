"""What layers lose by quantization, one at a time."""

import dataclasses
import json


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
class QuantizationSensitivity:
    """What `sensitivity` measured.

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

    def _title(self) -> str:
        scored = "" if self.metric is None else f", {self.metric} in float {self.baseline:.4f}"
        return f"{self.model}: one layer quantized at a time, {self.samples} samples{scored}"

    def _figures(self, row: LayerSensitivity) -> list[str]:
        scored = [] if row.score is None else [f"{row.score - self.baseline:+.4f}"]
        return [row.precision, f"{row.sqnr_db:.1f}", *scored]

    def __str__(self) -> str:
        width = max((len(row.layer) for row in self.rows), default=0)
        lines = [self._title()]
        for row in sorted(self.rows, key=lambda row: row.sqnr_db):
            precision, decibel, *scored = self._figures(row)
            lines.append(f"  {row.layer:<{width}}  {precision:<7} {decibel:>6} dB  {' '.join(scored)}".rstrip())
        return "\n".join(lines)

    def table(self):
        """A rich table, those that lose most first."""
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left")
        table.add_column("layer")
        table.add_column("precision")
        for name in ("SQNR in dB", *([] if self.metric is None else [f"change of {self.metric}"])):
            table.add_column(name, justify="right")
        for row in sorted(self.rows, key=lambda row: row.sqnr_db):
            table.add_row(row.layer, *self._figures(row))
        return table

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def plot(self):
        """A matplotlib figure: SQNR by layer, one line a precision."""
        from matplotlib.figure import Figure

        layers = list(dict.fromkeys(row.layer for row in self.rows))
        figure = Figure(figsize=(7, max(2, 0.3 * len(layers))), layout="constrained")
        axes = figure.subplots()
        for precision in dict.fromkeys(row.precision for row in self.rows):
            rows = [row for row in self.rows if row.precision == precision]
            axes.plot([row.sqnr_db for row in rows], [layers.index(row.layer) for row in rows], "o", label=precision)
        axes.set_yticks(range(len(layers)), layers)
        axes.invert_yaxis()
        axes.set(xlabel="SQNR of the outputs in dB", title="one layer quantized at a time")
        axes.legend()
        return figure
