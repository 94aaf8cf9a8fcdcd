"""What a learning-rate range test found."""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from tfstruct.reporting import Plotted, Report, Sheet
from tfstruct.reporting.figures import LIGHT, logarithmic
from tfstruct.reporting.tables import counted

_ROWS = 20  # of the table, at most


@dataclasses.dataclass(frozen=True)
class RangeTest(Plotted, Report):
    """The loss at rising learning rates, and what it says.

    `plot` draws the loss against the learning rate and marks the suggestion.

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

    _derived: ClassVar[tuple[str, ...]] = ("suggestion",)

    @property
    def suggestion(self) -> float | None:
        """`steepest`, or with method `"decade"` a tenth of `divergence`; the other where that one is None."""
        decade = None if self.divergence is None else self.divergence / 10
        first, second = (self.steepest, decade) if self.method == "steepest" else (decade, self.steepest)
        return second if first is None else first

    def sheet(self) -> Sheet:
        last = len(self.rates) - 1
        shown = sorted({round(i * last / (_ROWS - 1)) for i in range(_ROWS)})
        rows = [(step, self.rates[step], self.losses[step], self.smoothed[step]) for step in shown]
        columns = (("step", ",d"), ("learning rate", ".3g"), ("loss", ".3g"), ("smoothed loss", ".3g"))
        return Sheet("learning-rate range test", columns, rows, notes=[self._words()])

    def _draw(self, axis) -> None:
        axis.plot(self.rates, self.losses, color=LIGHT, linewidth=1, label="batch")
        axis.plot(self.rates, self.smoothed, label="smoothed")
        for rate, name, style in ((self.suggestion, "suggestion", "--"), (self.divergence, "divergence", ":")):
            if rate is not None:
                axis.axvline(rate, linestyle=style, color="black", label=f"{name} {rate:.2g}")
        finite = [value for value in self.smoothed if math.isfinite(value)]
        if finite:  # single batches far above would leave no room for the rest
            margin = 0.05 * (max(finite) - min(finite)) or 0.1
            axis.set_ylim(min(finite) - margin, max(finite) + margin)
        logarithmic(axis, "x")
        axis.set(xlabel="learning rate", ylabel="loss")
        axis.legend()

    def _words(self) -> str:
        seen = f"{counted(len(self.rates), 'step')} from {self.rates[0]:.2g} to {self.rates[-1]:.2g}; {self.stopped}. "
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
