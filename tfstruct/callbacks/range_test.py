"""What a learning-rate range test found."""

import dataclasses
import io
import json
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """The loss at rising learning rates, and what it says.

    Attributes:
        rates: the learning rates, in the order they were tried.
        losses: the loss of the batch that was seen with each.
        smoothed: these under a moving Gaussian window over the steps.
        steepest: where the smoothed loss falls fastest on the logarithmic axis; None where it does not fall by more
            than its noise.
        divergence: the first rate after the lowest smoothed loss at which it is back above where it began, or at which
            the loss is no longer a number; None where that did not happen.
        stopped: why the test ended.
        method: `"steepest"` or `"decade"`, see `suggestion`.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float | None
    divergence: float | None
    stopped: str
    method: str

    @property
    def suggestion(self) -> float | None:
        """`steepest`, or with method `"decade"` a tenth of `divergence`; the other where that one is None."""
        decade = None if self.divergence is None else self.divergence / 10
        first, second = (self.steepest, decade) if self.method == "steepest" else (decade, self.steepest)
        return second if first is None else first

    def to_dict(self) -> dict:
        """Plain data; a value that is not finite is None, as JSON has none."""
        data = dataclasses.asdict(self) | {"suggestion": self.suggestion}
        for name in ("losses", "smoothed"):
            data[name] = [value if math.isfinite(value) else None for value in data[name]]
        return json.loads(json.dumps(data))

    def table(self, rows: int = 20):
        """A `rich.table.Table` of some of the steps, the last among them."""
        from rich.table import Table

        table = Table(title="learning-rate range test", header_style="bold")
        for column in ("step", "learning rate", "loss", "smoothed"):
            table.add_column(column, justify="right")
        last = len(self.rates) - 1
        for step in sorted({round(i * last / max(rows - 1, 1)) for i in range(rows)}):
            values = self.rates[step], self.losses[step], self.smoothed[step]
            table.add_row(str(step), *(f"{value:.3g}" for value in values))
        return table

    def __str__(self) -> str:
        from rich.console import Console

        buffer = io.StringIO()
        Console(file=buffer, width=80, color_system=None).print(self.table())
        return buffer.getvalue() + self._words()

    def plot(self, path=None):
        """Draws loss against learning rate and marks the suggestion. Needs matplotlib.

        Returns:
            The `matplotlib.figure.Figure`; it is written to `path` where one is given.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        axis.plot(self.rates, self.losses, color="0.75", linewidth=1, label="batch")
        axis.plot(self.rates, self.smoothed, label="smoothed")
        for rate, name, style in ((self.suggestion, "suggestion", "--"), (self.divergence, "divergence", ":")):
            if rate is not None:
                axis.axvline(rate, linestyle=style, color="black", label=f"{name} {rate:.2g}")
        finite = [value for value in self.smoothed if math.isfinite(value)]
        if finite:  # single batches far above would leave no room for the rest
            margin = 0.05 * (max(finite) - min(finite)) or 0.1
            axis.set_ylim(min(finite) - margin, max(finite) + margin)
        axis.set_xscale("log")
        axis.set_xlabel("learning rate")
        axis.set_ylabel("loss")
        axis.legend(fontsize=8)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure

    def _words(self) -> str:
        seen = f"{len(self.rates)} steps from {self.rates[0]:.2g} to {self.rates[-1]:.2g}; {self.stopped}. "
        if self.suggestion is None:
            return seen + "No suggestion: the loss neither fell by more than its noise nor rose again."
        if self.suggestion == self.steepest:
            return seen + f"Suggestion: {self.steepest:.2g}, where the loss falls fastest."
        why = " (the loss did not fall by more than its noise)" if self.steepest is None else ""
        return seen + f"Suggestion: {self.suggestion:.2g}, a tenth of where the loss diverges{why}."


def read(rates, losses, width: float, stopped: str, method: str) -> RangeTest:
    """Finds the steepest descent and the divergence in a test.

    Args:
        rates, losses: equally many; a loss may be infinite or not a number.
        width: standard deviation of the Gaussian window, in steps.
    """
    rates, losses = np.asarray(rates, float), np.asarray(losses, float)
    finite = np.isfinite(losses)
    end = len(losses) if finite.all() else int(np.argmin(finite))
    smoothed = np.full(len(losses), np.nan)
    steepest = divergence = None
    if end:
        values = losses[:end]
        start = float(np.median(values[: max(3, round(3 * width))]))
        # One batch of a thousand times the loss would hide what came before it.
        smooth = _gaussian(np.minimum(values, start + 3 * abs(start)), width)
        smoothed[:end] = smooth
        lowest = int(np.argmin(smooth))
        noise = _noise(values, smooth, lowest, width)
        if lowest >= 2 and smooth[0] - smooth[lowest] > max(4 * noise, 1e-6 * abs(start)):
            slope = np.gradient(smooth[: lowest + 1], np.log(rates[: lowest + 1]))
            steepest = float(rates[int(np.argmin(slope))])
        # Half of the first loss is beyond noise, however much the batches scatter.
        above = np.flatnonzero(smooth[lowest:] > max(start, smooth[0]) + min(4 * noise, abs(start) / 2))
        if len(above):
            divergence = float(rates[lowest + above[0]])
    if divergence is None and end < len(losses):
        divergence = float(rates[end])
    return RangeTest(
        tuple(rates.tolist()),
        tuple(losses.tolist()),
        tuple(smoothed.tolist()),
        steepest,
        divergence,
        stopped,
        method,
    )


def _gaussian(values: np.ndarray, width: float) -> np.ndarray:
    """A weighted mean around each step; centred, so that nothing moves to higher rates as with a running mean."""
    at = np.arange(len(values))
    weights = np.exp(-0.5 * ((at[:, None] - at) / width) ** 2)
    return weights @ values / weights.sum(1)


def _noise(values, smooth, lowest: int, width: float) -> float:
    """Standard deviation of the smoothed loss, from how batches scatter around it up to its lowest point."""
    scatter = (values - smooth)[: max(lowest, 3) + 1]
    return float(np.std(scatter) / math.sqrt(max(2 * math.sqrt(math.pi) * width, 1.0)))
