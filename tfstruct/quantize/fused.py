"""Which layers become one operator of the quantized file: what is quantized together."""

import dataclasses

import keras

from tfstruct.graph import Call, is_training_only
from tfstruct.graph.opening.parts import values_read
from tfstruct.graph.operation_traits import traits_of
from tfstruct.precisions import PRECISIONS
from tfstruct.quantize.rounding_points import RoundingPoints


@dataclasses.dataclass(frozen=True)
class Fused:
    """Layers that are fused: a convolution, its batch norm and its ReLU, or one operation alone.

    Attributes:
        ops: in order of execution.
        paths: of these.
        rows: the places of all their calls in `Graph.calls`.
    """

    ops: tuple[keras.Operation, ...]
    paths: tuple[str, ...]
    rows: tuple[int, ...]

    @property
    def path(self) -> str:
        return self.paths[0]

    def takes(self, precision: str) -> bool:
        """Whether its weights can have that precision; otherwise they have 8 bits."""
        stored = PRECISIONS[precision].stored_as
        if PRECISIONS[stored].weight_bits != 4:
            return True
        traits = traits_of(self.ops[0])
        return traits.four_bits if precision == stored else traits.one_kernel


def fused(rounding_points: RoundingPoints) -> list[Fused]:
    """The operators that change values, in order of execution; operations that only move data are left out."""
    calls = rounding_points.graph.calls
    readers = {tensor.key: call for call in reversed(calls) for tensor in values_read(call)}
    rows: dict[int, list[int]] = {}
    for row, call in enumerate(calls):
        rows.setdefault(id(call.op), []).append(row)
    found, seen = [], set()
    for call in calls:
        if id(call.op) in seen or id(call.op) in rounding_points.movers or rounding_points.folding.computed_ahead(call):
            continue
        ops, paths = [], []
        part: Call | None = call
        while part is not None:
            seen.add(id(part.op))
            if not is_training_only(part.op):
                ops.append(part.op)
                paths.append(part.path)
            if rounding_points.outputs[id(part.op)] is not None and id(part.op) not in rounding_points.movers:
                break
            part = readers.get(part.outputs[0].key)
        found.append(Fused(tuple(ops), tuple(paths), tuple(row for op in ops for row in rows[id(op)])))
    return found
