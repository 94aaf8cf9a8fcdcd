"""What weights of 4 bits save, and which layers get them."""

from collections.abc import Sequence

import numpy as np

from tfstruct.analyze import Costs
from tfstruct.graph import Graph
from tfstruct.graph.operation_traits import traits_of

_TRUSTED = 0.9  # share of what the upper bound is too large by for a whole model, that is taken off for its parts


class FileSize:
    """Bytes of the file of what stays of a graph, with weights of 4 bits in some layers.

    Args:
        offset: what the upper bound of `analyze.tflite_size` is too large by.
    """

    def __init__(self, graph: Graph, offset: float = 0.0):
        self._costs, self.offset = Costs(graph, ("tflite_bytes",)), offset
        self._rows: dict[str, int] = {}
        for row, call in enumerate(graph.calls):
            if traits_of(call.op).four_bits and getattr(call.op, "groups", 1) == 1:
                self._rows.setdefault(call.path, row)

    @classmethod
    def of_file(cls, graph: Graph, file_bytes: float) -> "FileSize":
        """With the offset that the int8 file of the whole graph tells."""
        return cls(graph, _TRUSTED * max(cls(graph)() - file_bytes, 0.0))

    def sizes(self, keep: np.ndarray | None = None) -> dict[str, int]:
        """Layer path -> weights of those that 4-bit kernels exist for, in order; what stays of them."""
        params = self._costs.by_call(keep)["params"]
        return {path: int(params[row]) for path, row in self._rows.items() if params[row] > 0}

    def __call__(self, keep: np.ndarray | None = None, four_bits: Sequence[str] = ()) -> float:
        """The bytes, with these layers in 4 bits."""
        sizes = self.sizes(keep)
        return self._costs(keep)["tflite_bytes"] - self.offset - sum(sizes[path] / 2 for path in four_bits)


def four_bit_layers(sizes: dict[str, int], wanted: float) -> tuple[str, ...]:
    """The layers whose weights of 4 bits save `wanted` bytes, or all: the largest first; the first and the last, which
    lose most by it, only where the others are not enough."""
    ends, chosen = {next(iter(sizes), ""), next(reversed(sizes), "")}, []
    for path in sorted(sizes, key=lambda path: (path in ends, -sizes[path])):
        if wanted <= 0:
            break
        chosen.append(path)
        wanted -= sizes[path] / 2
    return tuple(chosen)
