"""How samples use the range that an input has in a quantized file."""

import dataclasses

import numpy as np

from tfstruct.convert.port_ranges import PortRange


@dataclasses.dataclass(frozen=True)
class InputCoverage:
    """How the samples use the range that an input has in the file.

    Attributes:
        name: the input.
        low, high: of the samples.
        range: of the file.
        clipped: share of the values outside of it.
        is_flag: True if it has two values at most, 0 or 1 among them, as masks have: their size is no scale.
    """

    name: str
    low: float
    high: float
    range: tuple[float, float]
    clipped: float
    is_flag: bool = False


class CoverageCount:
    """Adds up between which values an input lies, and how many of them the file clips."""

    def __init__(self, port_range: PortRange):
        self.port_range, self.count, self.clipped = port_range, 0, 0
        self.low, self.high = np.inf, -np.inf
        self.distinct: set[float] = set()

    def add(self, values: np.ndarray) -> None:
        self.count += values.size
        self.clipped += int(self.port_range.beyond(values).sum())
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        if len(self.distinct) <= 2:
            self.distinct.update(np.unique(values)[:3].tolist())

    def coverage(self, name: str) -> InputCoverage:
        ends, clipped = (self.port_range.low, self.port_range.high), self.clipped / self.count
        return InputCoverage(
            name, self.low, self.high, ends, clipped, len(self.distinct) <= 2 and bool({0, 1} & self.distinct)
        )
