"""Subgraphs that are optimized as one: the layers of one operator of the file, or a block of them."""

import dataclasses
from collections.abc import Iterable, Sequence

import keras

from tfstruct.graph import Call
from tfstruct.graph.opening.parts import Constant, Weight, values_read
from tfstruct.quantize.rounding_points import RoundingPoints

# A value by the key of its tensor.
Values = dict[int, object]


@dataclasses.dataclass(frozen=True)
class Subgraph:
    """Calls in order of execution.

    Attributes:
        inputs: keys of the tensors that the calls read and do not produce.
        outputs: keys of those that they produce and that other calls read, or that are outputs of the model.
    """

    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def path(self) -> str:
        """Path of the first layer; with that of the last one if there are several."""
        first, last = self.calls[0].path, self.calls[-1].path
        return first if len(self.calls) == 1 else f"{first} .. {last}"


def execute(calls: Iterable[Call], values: Values) -> None:
    """Runs calls: their inputs are read from `values`, their outputs are written to it."""
    for call in calls:
        if isinstance(call.op, (Weight, Constant)):  # what it reads only ties it to the graph
            values[call.outputs[0].key] = call.op.call(None)
            continue
        given = zip(call.node.arguments.keras_tensors, call.inputs, strict=True)
        args, kwargs = call.node.arguments.fill_in({id(x): values[channels.key] for x, channels in given})
        made = keras.tree.flatten(call.op(*args, **kwargs))
        values.update({channels.key: y for channels, y in zip(call.outputs, made, strict=True)})


def subgraph(rounding_points: RoundingPoints, calls: Sequence[Call]) -> Subgraph:
    """These calls as one; what makes the constants that they read is part of it, whoever else reads them."""
    graph, constants = rounding_points.graph, rounding_points.folding.constants
    calls = [*rounding_points.folding.makers_of(calls), *calls]
    made = {x.key for call in calls for x in call.outputs}
    read = {x.key: None for call in calls for x in values_read(call)}
    inside = set(map(id, calls))
    wanted = {x.key for call in graph.calls if id(call) not in inside for x in values_read(call)} - constants.keys()
    wanted |= {x.key for x in graph.outputs}
    outputs = [x.key for call in calls for x in call.outputs if x.key in wanted]
    return Subgraph(tuple(calls), tuple(key for key in read if key not in made), tuple(outputs))


def operators(rounding_points: RoundingPoints) -> list[Subgraph]:
    """Splits the graph by operators of the file: the calls that are fused into one operator form a subgraph."""
    found: list[list[Call]] = []
    open_ends: dict[int, list[Call]] = {}  # tensor key (inside a fused operator) -> calls fused so far
    for call in rounding_points.graph.calls:
        chain = next((open_ends.pop(x.key) for x in values_read(call) if x.key in open_ends), None)
        if chain is None:
            found.append(chain := [])
        else:
            chain += rounding_points.folding.constants_for(call, chain[0])
        chain.append(call)
        if rounding_points.outputs[id(call.op)] is None and not rounding_points.folding.computed_ahead(call):
            open_ends[call.outputs[0].key] = chain
    return [subgraph(rounding_points, chain) for chain in found]


def blocks(rounding_points: RoundingPoints) -> list[Subgraph]:
    """Splits the graph wherever all data passes through one tensor: a residual block is one subgraph."""
    graph, found = rounding_points.graph, []
    current: list[Call] = []
    left: dict[int, int] = {}
    constants = rounding_points.folding.constants
    for call in graph.calls:
        for x in values_read(call):
            left[x.key] = left.get(x.key, 0) + 1
    for x in graph.outputs:
        left[x.key] = left.get(x.key, 0) + 1
    alive = {x.key for x in graph.body.inputs}
    for part in operators(rounding_points):
        current += part.calls
        for call in part.calls:
            alive.update(x.key for x in call.outputs if left.get(x.key) and x.key not in constants)
            for x in values_read(call):
                left[x.key] = left.get(x.key, 0) - 1
                if left[x.key] <= 0:
                    alive.discard(x.key)
        if len(alive) == 1 and alive <= set(part.outputs):
            found.append(subgraph(rounding_points, current))
            current = []
    return [*found, subgraph(rounding_points, current)] if current else found
