"""What bias correction did."""

import dataclasses
import json

import numpy as np


@dataclasses.dataclass(frozen=True)
class CorrectedBias:
    """The shifts of a layer's biases.

    Attributes:
        layer: its path.
        mean, largest: of |shift| over the channels.
        relative: the largest |shift| in standard deviations of its channel before the activation.
    """

    layer: str
    mean: float
    largest: float
    relative: float

    @classmethod
    def of(cls, layer: str, shift: np.ndarray, deviation: np.ndarray) -> "CorrectedBias":
        size = np.abs(shift)
        relative = np.divide(size, deviation, out=np.zeros_like(size), where=deviation > 0)
        return cls(layer, float(size.mean()), float(size.max()), float(relative.max()))


@dataclasses.dataclass(frozen=True)
class BiasCorrection:
    """What `correct_bias` did.

    Attributes:
        precision: that the biases make up for.
        layers: whose biases were shifted, in order of execution.
        left: (layer, why its bias was left alone).
    """

    precision: str
    layers: tuple[CorrectedBias, ...]
    left: tuple[tuple[str, str], ...]

    def _title(self) -> str:
        return f"biases of {len(self.layers)} layers corrected for {self.precision}, {len(self.left)} left alone"

    def __str__(self) -> str:
        width = max((len(row.layer) for row in self.layers), default=0)
        lines = [self._title()]
        for row in self.layers:
            lines.append(
                f"  {row.layer:<{width}}  mean |shift| {row.mean:.4g}, largest {row.largest:.4g}, "
                f"{row.relative:.2f} deviations"
            )
        return "\n".join([*lines, *(f"  {layer}: {why}" for layer, why in self.left)])

    def table(self):
        """A rich table of the shifts."""
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left")
        table.add_column("layer")
        for name in ("mean |shift|", "largest", "in deviations"):
            table.add_column(name, justify="right")
        for row in self.layers:
            table.add_row(row.layer, f"{row.mean:.4g}", f"{row.largest:.4g}", f"{row.relative:.2f}")
        for layer, why in self.left:
            table.add_row(layer, why, "", "")
        return table

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def plot(self):
        """A matplotlib figure: the largest shift of each layer, in deviations of its channel."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, max(2, 0.3 * len(self.layers))), layout="constrained")
        axes = figure.subplots()
        rows = self.layers[::-1]
        axes.barh([row.layer for row in rows], [row.relative for row in rows])
        axes.set(xlabel="largest shift in deviations of its channel", title=self._title())
        return figure
