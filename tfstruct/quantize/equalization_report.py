"""What equalization did."""

import dataclasses
import json


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
class Equalization:
    """What `equalize` did.

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

    def _title(self) -> str:
        moved = sum(count for _, count in self.absorbed)
        return (
            f"{len(self.pairs)} layers equalized with their readers in {self.sweeps} sweeps, "
            f"{moved} biases absorbed, {len(self.skipped)} left alone"
        )

    def __str__(self) -> str:
        width = max((len(pair.layer) for pair in self.pairs), default=0)
        lines = [self._title()]
        for p in self.pairs:
            lines.append(
                f"  {p.layer:<{width}}  made {p.made_before:.2f} -> {p.made_after:.2f}, "
                f"read {p.read_before:.2f} -> {p.read_after:.2f} by {', '.join(p.readers)}"
            )
        lines += [f"  {layer}: {count} biases absorbed" for layer, count in self.absorbed]
        return "\n".join([*lines, *(f"  {layer}: {why}" for layer, why in self.skipped)])

    def table(self):
        """A rich table of how alike the channels are."""
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left")
        for name in ("layer", "read by"):
            table.add_column(name)
        for name in ("made before", "after", "read before", "after"):
            table.add_column(name, justify="right")
        for p in self.pairs:
            figures = (p.made_before, p.made_after, p.read_before, p.read_after)
            table.add_row(p.layer, ", ".join(p.readers), *(f"{figure:.3f}" for figure in figures))
        for layer, why in self.skipped:
            table.add_row(layer, why, "", "", "", "")
        return table

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def plot(self):
        """A matplotlib figure: how alike the channels are, before and after."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, max(2, 0.3 * len(self.pairs))), layout="constrained")
        axes = figure.subplots()
        names = [p.layer for p in self.pairs[::-1]]
        for column, marker in (("made", "o"), ("read", "s")):
            for when, filled in (("before", "none"), ("after", None)):
                values = [getattr(p, f"{column}_{when}") for p in self.pairs[::-1]]
                axes.plot(values, names, marker, fillstyle=filled or "full", label=f"{column}, {when}")
        axes.set(xlabel="mean of range / largest range", xlim=(0, 1.05), title="ranges of channels")
        axes.legend()
        return figure
