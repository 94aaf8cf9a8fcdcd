"""`CostTable`: figures of one piece of a file, by the alternatives that it depends on; what a choice sums up to."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from tfstruct.errors import ArgumentError

# Begins the figures whose largest sum is the peak memory; the moment follows.
MEMORY = "memory@"
PEAK = "peak_memory"


@dataclasses.dataclass(frozen=True, eq=False)
class CostTable:
    """What one piece of a file costs, by the alternatives of the parts that it depends on.

    Attributes:
        name: a call's path, or a tensor.
        parts: names of the parts that it depends on, none to four.
        figures: `"macs"`, `"params"`, `"tflite_bytes"`, `"latency_us"` or `"memory@<moment>"` -> an array with an axis
            for each part, in their order, by alternative.

    Example:
        >>> from tfstruct.compression.alternatives.cost_table import CostTable, totals
        >>> table = CostTable("dense", ("width",), {"macs": [100, 50]})
        >>> totals([table, CostTable("head", (), {"macs": 7})], {"width": 1})
        {'macs': 57.0}
    """

    name: str
    parts: tuple[str, ...]
    figures: Mapping[str, np.ndarray]

    def __post_init__(self):
        figures = {name: np.asarray(values, float) for name, values in self.figures.items()}
        object.__setattr__(self, "parts", tuple(self.parts))
        object.__setattr__(self, "figures", figures)
        if len(set(self.parts)) < len(self.parts):
            raise ArgumentError(f"The table {self.name!r} must name each part once. Received: {list(self.parts)}.")
        for name, values in figures.items():
            if values.ndim != len(self.parts):
                raise ArgumentError(
                    f"`{name}` of the table {self.name!r} must have an axis for each of its {len(self.parts)} parts. "
                    f"Received: an array of shape {values.shape}."
                )

    def at(self, name: str, picked: Mapping[str, int]) -> float:
        """One figure at a choice; 0 where the table has none of that name."""
        values = self.figures.get(name)
        return 0.0 if values is None else float(values[tuple(picked[part] for part in self.parts)])


def totals(tables: Iterable[CostTable], picked: Mapping[str, int]) -> dict[str, float]:
    """The figures of a choice, part -> number of its alternative: sums over the tables, and of the moments' memory the
    largest as `peak_memory`."""
    sums: dict[str, float] = {}
    for table in tables:
        place = tuple(picked[part] for part in table.parts)
        for name, values in table.figures.items():
            sums[name] = sums.get(name, 0.0) + float(values[place])
    found = {name: value for name, value in sums.items() if not name.startswith(MEMORY)}
    moments = [value for name, value in sums.items() if name.startswith(MEMORY)]
    return {**found, PEAK: max(moments)} if moments else found
