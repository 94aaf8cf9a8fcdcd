"""What equalization did."""

import dataclasses

from tfstruct.reporting import OpenedReport, Plotted, Sheet
from tfstruct.reporting.figures import BLUE, ORANGE
from tfstruct.reporting.tables import counted


@dataclasses.dataclass(frozen=True)
class Evened:
    """A layer and those that read it.

    Attributes:
        layer, readers: their paths.
        made_before, read_before, made_after, read_after: the mean over channels of range / largest range, of the
            weights that make them and of those that read them; 1 where all are alike.
    """

    layer: str
    readers: tuple[str, ...]
    made_before: float
    read_before: float
    made_after: float
    read_after: float


@dataclasses.dataclass(frozen=True)
class Equalization(Plotted, OpenedReport):
    """What `equalize` did. `plot` draws how alike the channels are, before and after.

    Attributes:
        pairs: the layers that were equalized.
        absorbed: (layer, channels whose bias moved on).
        skipped: (layer, why it or its bias was left alone).
        sweeps: over all pairs, until nothing moved.
    """

    pairs: tuple[Evened, ...]
    absorbed: tuple[tuple[str, int], ...]
    skipped: tuple[tuple[str, str], ...]
    sweeps: int

    def sheet(self) -> Sheet:
        moved = sum(count for _, count in self.absorbed)
        whose = "its" if len(self.pairs) == 1 else "their"
        title = (
            f"{counted(len(self.pairs), 'layer')} equalized with {whose} readers in {counted(self.sweeps, 'sweep')}, "
            f"{counted(moved, 'bias', 'biases')} absorbed, {len(self.skipped)} left alone"
        )
        columns = (
            "layer", "read by", ("made before", ".3f"), ("made after", ".3f"), ("read before", ".3f"),
            ("read after", ".3f"),
        )  # fmt: skip
        rows = [
            (p.layer, ", ".join(p.readers), p.made_before, p.made_after, p.read_before, p.read_after)
            for p in self.pairs
        ]
        notes = [f"{layer}: {counted(count, 'bias', 'biases')} absorbed" for layer, count in self.absorbed]
        return Sheet(title, columns, rows, left_alone=self.skipped, notes=notes)

    def _size(self) -> tuple[float, float]:
        return 7, 1.2 + 0.3 * max(len(self.pairs), 4)

    def _draw(self, axes) -> None:
        names = [p.layer for p in self.pairs[::-1]]
        for column, marker, colour in (("made", "o", BLUE), ("read", "s", ORANGE)):
            for when, filled in (("before", "none"), ("after", "full")):
                values = [getattr(p, f"{column}_{when}") for p in self.pairs[::-1]]
                axes.plot(values, names, marker, color=colour, fillstyle=filled, label=f"{column}, {when}")
        axes.set(xlabel="mean of range / largest range; 1: all channels alike", xlim=(0, 1.05))
        axes.set_title("ranges of channels")
        axes.legend()
