"""`CostTable`: figures of one piece of a file, by the alternatives that it depends on; `SharedCost`: those of what
several pieces share; what a choice sums up to."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfstruct.errors import ArgumentError

# Parts, and an array with an axis for each: at which of their alternatives something is needed.
Need = tuple[tuple[str, ...], np.ndarray]
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

    @property
    def arrays(self) -> list[tuple[tuple[str, ...], np.ndarray]]:
        """Parts, and an array by their alternatives."""
        return [(self.parts, values) for values in self.figures.values()]

    def costs(self, picked: Mapping[str, int]) -> dict[str, float]:
        """The figures at a choice."""
        place = tuple(picked[part] for part in self.parts)
        return {name: float(values[place]) for name, values in self.figures.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class SharedCost:
    """What a file holds once for all pieces that need it, and not at all where none does.

    Attributes:
        name: of what is shared.
        figures: what it costs.
        needs: of each piece the parts that it depends on, and an array with an axis for each, by alternative: 1 where
            it needs what is shared, else 0.

    Example:
        >>> from tfstruct.compression.alternatives.cost_table import SharedCost, totals
        >>> vector = SharedCost("8 zeros", {"tflite_bytes": 64}, [(("a",), [1, 0]), (("b",), [1, 0])])
        >>> totals([vector], {"a": 0, "b": 1}), totals([vector], {"a": 1, "b": 1})
        ({'tflite_bytes': 64.0}, {'tflite_bytes': 0.0})
    """

    name: str
    figures: Mapping[str, float]
    needs: Sequence[Need]

    def __post_init__(self):
        object.__setattr__(self, "figures", {name: float(value) for name, value in self.figures.items()})
        object.__setattr__(self, "needs", [(tuple(parts), np.asarray(own, bool)) for parts, own in self.needs])

    @property
    def parts(self) -> tuple[str, ...]:
        """All that it depends on."""
        return tuple(dict.fromkeys(part for parts, _ in self.needs for part in parts))

    @property
    def arrays(self) -> list[tuple[tuple[str, ...], np.ndarray]]:
        """Parts, and an array by their alternatives."""
        return list(self.needs)

    def costs(self, picked: Mapping[str, int]) -> dict[str, float]:
        """The figures at a choice."""
        needed = any(own[tuple(picked[part] for part in parts)] for parts, own in self.needs)
        return {name: value if needed else 0.0 for name, value in self.figures.items()}


Cost = CostTable | SharedCost


def totals(tables: Iterable[Cost], picked: Mapping[str, int]) -> dict[str, float]:
    """The figures of a choice, part -> number of its alternative: sums over the tables, and of the moments' memory the
    largest as `peak_memory`."""
    sums: dict[str, float] = {}
    for table in tables:
        for name, value in table.costs(picked).items():
            sums[name] = sums.get(name, 0.0) + value
    found = {name: value for name, value in sums.items() if not name.startswith(MEMORY)}
    moments = [value for name, value in sums.items() if name.startswith(MEMORY)]
    return {**found, PEAK: max(moments)} if moments else found
