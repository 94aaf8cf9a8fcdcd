"""Calibrators: five ways to find the range of activations in one pass over data, keeping only counts."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

# Beyond this many values of a tensor in one sample, histograms take every n-th: tails stay well covered.
_MOST_VALUES = 1 << 16


class Calibrator(Protocol):
    """What sees the values of a tensor, sample by sample, and says its range."""

    def update(self, values: np.ndarray) -> None: ...

    def range(self) -> tuple[float, float]: ...


class MinMax:
    """Range = [min over all samples, max over all samples]."""

    def __init__(self):
        self.low, self.high = np.inf, -np.inf

    def update(self, values: np.ndarray) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def range(self) -> tuple[float, float]:
        return self.low, self.high


class MovingAverage:
    """Range = exponential moving average of each sample's min and max, corrected for its start.

    m_t = d m_{t-1} + (1 - d) x_t, m_0 = 0, range_t = m_t / (1 - d^t): the first sample gives its own range.
    The correction is that of Kingma & Ba 2015, section 3, arXiv:1412.6980.
    """

    def __init__(self, decay: float = 0.99):
        self.decay, self.weight = decay, 0.0
        self.low = self.high = 0.0

    def update(self, values: np.ndarray) -> None:
        keep = self.decay
        self.low = keep * self.low + (1 - keep) * float(values.min())
        self.high = keep * self.high + (1 - keep) * float(values.max())
        self.weight = keep * self.weight + (1 - keep)

    def range(self) -> tuple[float, float]:
        if not self.weight:
            return np.inf, -np.inf
        return self.low / self.weight, self.high / self.weight


class Histogram:
    """Counts of all values seen, over a symmetric interval that doubles when a value falls outside.

    Zeros are left out: every quantizer represents them exactly, and after a ReLU they would drown the rest.
    Subclasses turn the counts into a range.
    """

    bins = 8192

    def __init__(self):
        self.counts = np.zeros(self.bins)
        self.zeros = 0
        self.limit = 0.0
        self.low, self.high = np.inf, -np.inf

    def update(self, values: np.ndarray) -> None:
        flat = values.ravel()
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        largest = max(-self.low, self.high)
        if largest == 0.0:
            self.zeros += flat.size
            return
        self.limit = self.limit or largest
        while self.limit < largest:
            quarter = self.bins // 4
            self.counts = np.pad(self.counts.reshape(-1, 2).sum(axis=1), quarter)
            self.limit *= 2.0
        if flat.size > _MOST_VALUES:
            # A step that shares no factor with the size does not fall on the same channels again and again.
            step = -(-flat.size // _MOST_VALUES)
            while np.gcd(step, flat.size) > 1:
                step += 1
            flat = flat[::step]
        seen = flat[flat != 0]
        self.zeros += flat.size - seen.size
        place = ((seen.astype(np.float64) + self.limit) * (self.bins / (2 * self.limit))).astype(np.int64)
        self.counts += np.bincount(np.clip(place, 0, self.bins - 1), minlength=self.bins)

    def centers(self) -> np.ndarray:
        width = 2 * self.limit / self.bins
        return -self.limit + width * (np.arange(self.bins) + 0.5)


class Percentile(Histogram):
    """Range = [the (100 - p)-th percentile, the p-th percentile] of all values, zeros counted."""

    def __init__(self, percentile: float = 99.99):
        super().__init__()
        self.percentile = percentile

    def range(self) -> tuple[float, float]:
        if not self.limit:
            return self.low, self.high
        counts = self.counts.copy()
        counts[self.bins // 2] += self.zeros
        low = self._cut(counts) - self.limit
        high = self.limit - self._cut(counts[::-1])
        return max(low, self.low), min(high, self.high)

    def _cut(self, counts: np.ndarray) -> float:
        """Position at which the outer share of the values ends; at a tie, the beginning of the others."""
        outer = 1 - self.percentile / 100
        share = np.cumsum(counts) / counts.sum()
        first = min(int(np.searchsorted(share, outer + 1e-12, side="right")), self.bins - 1)
        before = share[first - 1] if first else 0.0
        return (first + (outer - before) / (share[first] - before)) * 2 * self.limit / self.bins


class MeanSquaredError(Histogram):
    """Range = the clipping [l, h] that minimises sum_i n_i (x_i - Q(x_i; l, h))^2 over the histogram.

    Q quantizes to 2^bits levels. h is searched with l fixed at the minimum, then l with that h.
    """

    def __init__(self, bits: int = 8):
        super().__init__()
        self.levels = 2**bits - 1

    def range(self) -> tuple[float, float]:
        if not self.limit:
            return self.low, self.high
        used = self.counts > 0
        values, counts = self.centers()[used], self.counts[used]
        low, high = min(self.low, 0.0), max(self.high, 0.0)

        def loss(l, h):  # noqa: E741
            step = (h - l) / self.levels
            zero = np.round(-l / step)
            error = (np.clip(np.round(values / step) + zero, 0, self.levels) - zero) * step - values
            return float(counts @ np.square(error))

        shares = np.linspace(1.0, 0.1, 91)
        if high > 0:
            high *= min(shares, key=lambda s: loss(low, high * s))
        if low < 0:
            low *= min(shares, key=lambda s: loss(low * s, high))
        return low, high


class Entropy(Histogram):
    """Range = [-t, t] within the values seen, t minimising KL(P || Q).

    P is the histogram clipped at t, what lies outside added to its ends; Q is P before that addition, merged
    into 2^bits levels and spread again over the bins that are not empty.

    Source: Migacz 2017, "8-bit Inference with TensorRT", GPU Technology Conference.
    """

    def __init__(self, bits: int = 8):
        super().__init__()
        self.levels = 2**bits

    def range(self) -> tuple[float, float]:
        if not self.limit:
            return self.low, self.high
        centers = self.centers()
        largest = max(-self.low, self.high)
        best = (np.inf, largest)
        for t in largest * np.linspace(1.0, 0.1, 91):
            inside = np.flatnonzero((centers >= max(-t, self.low)) & (centers <= min(t, self.high)))
            if inside.size < self.levels:
                break
            first, last = inside[0], inside[-1] + 1
            kept = self.counts[first:last]
            clipped = kept.copy()
            clipped[0] += self.counts[:first].sum()
            clipped[-1] += self.counts[last:].sum()
            starts = np.linspace(0, kept.size, self.levels, endpoint=False).astype(int)
            filled = np.add.reduceat((kept > 0).astype(float), starts)
            level = np.add.reduceat(kept, starts) / np.maximum(filled, 1)
            spread = np.repeat(level, np.diff([*starts, kept.size])) * (kept > 0)
            best = min(best, (_divergence(clipped, spread), t))
        t = best[1]
        return max(-t, self.low), min(t, self.high)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(P || Q) of two histograms; a bin that Q lacks counts as nearly empty."""
    p, q = p / p.sum(), q / max(q.sum(), 1e-12)
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-9))))


def calibrator_of(name: str, percentile: float = 99.99, bits: int = 8) -> Callable[[], Calibrator]:
    """Returns a factory of calibrators by name, one of `precisions.CALIBRATORS`; `bits`: width of the activations."""
    made: dict[str, Callable[[], Calibrator]] = {
        "minmax": MinMax,
        "moving_average": MovingAverage,
        "percentile": lambda: Percentile(percentile),
        "mse": lambda: MeanSquaredError(bits),
        "entropy": lambda: Entropy(bits),
    }
    return made[name]


def usable(low: float, high: float) -> tuple[float, float] | None:
    """Makes a range usable for kernels: it includes 0 and is not empty. None if no finite value was seen."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    # A tensor that is always zero gets a range all the same: kernels divide by its scale.
    return (min(low, 0.0), max(high, 0.0)) if low or high else (0.0, 1.0)
