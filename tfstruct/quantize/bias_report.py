"""What bias correction did."""

import dataclasses

import numpy as np

from tfstruct.reporting import OpenedReport, Plotted, Sheet
from tfstruct.reporting.tables import counted


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
class BiasCorrection(Plotted, OpenedReport):
    """What `correct_bias` did. `plot` draws the largest shift of each layer, in deviations of its channel.

    Attributes:
        precision: that the biases make up for.
        layers: whose biases were shifted, in order of execution.
        left: (layer, why its bias was left alone).
    """

    precision: str
    layers: tuple[CorrectedBias, ...]
    left: tuple[tuple[str, str], ...]

    def _title(self) -> str:
        corrected = counted(len(self.layers), "bias", "biases")
        return f"{corrected} corrected for {self.precision}, {len(self.left)} left alone"

    def sheet(self) -> Sheet:
        columns = ("layer", ("mean |shift|", ".4g"), ("largest |shift|", ".4g"), ("in deviations", ".2f"))
        rows = [(row.layer, row.mean, row.largest, row.relative) for row in self.layers]
        return Sheet(self._title(), columns, rows, left_alone=self.left)

    def _size(self) -> tuple[float, float]:
        return 7, 1 + 0.3 * max(len(self.layers), 4)

    def _draw(self, axes) -> None:
        rows = self.layers[::-1]
        axes.barh([row.layer for row in rows], [row.relative for row in rows])
        axes.set(xlabel="largest shift in deviations of its channel", title=self._title())
