"""Where ids come from in a model, and which tables they are looked up in."""

import dataclasses

import keras
import numpy as np

from tfstruct.graph import Call, Graph
from tfstruct.graph.opening.parts import Sized, values_read
from tfstruct.graph.operation_traits import traits_of
from tfstruct.graph.rules.arguments import array_of, given


@dataclasses.dataclass
class Source:
    """An input of ids, or a layer that makes ids of words.

    Attributes:
        name: of the input; path of the layer.
        key: of its tensor.
        lookup: the layer.
        pinned: ids that the model compares with: constants, and 0 where it masks.
        obstacle: why its ids cannot get other numbers; empty if they can.
    """

    name: str
    key: int
    lookup: keras.layers.Layer | None = None
    pinned: dict[int, str] = dataclasses.field(default_factory=dict)
    obstacle: str = ""


@dataclasses.dataclass
class Table:
    """A weight whose rows ids pick.

    Attributes:
        path: of the layer that owns it.
        rows: the labels of its rows.
        sources: keys of the sources of its ids.
        obstacle: why its rows stay; empty if they can go.
    """

    path: str
    rows: np.ndarray
    sources: set[int]
    obstacle: str = ""


@dataclasses.dataclass(frozen=True)
class IdFlow:
    """The sources and tables of a graph that was traced with `rows=True`; see `families`."""

    sources: dict[int, Source]
    tables: tuple[Table, ...]

    def families(self) -> list[tuple[list[Source], list[Table]]]:
        """Sources and tables that share their ids: one numbering serves all of a family."""
        left, found = [table for table in self.tables if table.sources], []
        while left:
            tables, keys = [left.pop(0)], set()
            while True:
                keys = set().union(*(table.sources for table in tables))
                more = [table for table in left if table.sources & keys]
                if not more:
                    break
                tables += more
                left = [table for table in left if not any(table is one for one in more)]
            found.append(([self.sources[key] for key in sorted(keys)], tables))
        return found


def id_flow(graph: Graph) -> IdFlow:
    """Follows ids from the inputs, and from layers that make ids of words, to the tables that they are looked up in."""
    names = [x.name for x in graph.model.inputs]
    sources = {x.key: Source(name, x.key) for name, x in zip(names, graph.body.inputs, strict=True)}
    held: dict[int, set[int]] = {key: {key} for key in sources}  # key of a tensor of ids -> their sources
    tables: dict[bytes, Table] = {}
    for call in graph.calls:
        read = [(x, held[x.key]) for x in values_read(call) if x.key in held]
        if traits_of(call.op).vocabulary:
            if call.op.get_config()["output_mode"] == "int":
                (made,) = call.outputs
                sources[made.key] = Source(call.path, made.key, call.op)
                held[made.key] = {made.key}
            for key in _all(own for _, own in read):
                sources[key].obstacle = (
                    sources[key].obstacle or f"{call.path} reads it, which has a vocabulary of its own"
                )
            continue
        looked_up = {ids.key for _, ids in call.lookups}
        for rows, ids in call.lookups:
            table = tables.setdefault(rows.tobytes(), Table(_owner(graph, rows) or call.path, rows, set()))
            if ids.key not in held:
                table.obstacle = table.obstacle or f"{call.path} looks up ids that the model computes"
            table.sources |= held.get(ids.key, set())
            if getattr(call.op, "mask_zero", False):
                for key in held.get(ids.key, ()):
                    sources[key].pinned[0] = f"{call.path} masks it"
        _follow(call, [(x, own) for x, own in read if x.key not in looked_up], held, sources)
    for x in graph.outputs:
        for key in held.get(x.key, ()):
            sources[key].obstacle = sources[key].obstacle or "the model returns the ids"
    for table in tables.values():
        why = next((graph.units.frozen[u] for u in graph.units.of(table.rows) if u in graph.units.frozen), "")
        table.obstacle = table.obstacle or why
    return IdFlow(sources, tuple(tables.values()))


def _follow(call: Call, read, held: dict[int, set[int]], sources: dict[int, Source]) -> None:
    """What a call does with ids besides looking them up: it moves them, compares them, or is an obstacle."""
    if not read:
        return
    traits = traits_of(call.op)
    if traits.reads_shape:
        return
    own = _all(one for _, one in read)
    if (traits.moves and not traits.interpolates) or isinstance(call.op, Sized):
        for x in call.outputs:
            held[x.key] = own
        return
    constants = [array for _, value in given(call) if (array := array_of(value)) is not None]
    if type(call.op).__name__ in ("Equal", "NotEqual") and len(constants) == 1:
        for key in own:
            sources[key].pinned.update({int(i): f"{call.path} compares ids with it" for i in np.unique(constants[0])})
        return
    for key in own:
        sources[key].obstacle = sources[key].obstacle or call.opaque or f"{call.path} computes with the ids themselves"


def _all(sets) -> set[int]:
    return set().union(*sets)


def _owner(graph: Graph, rows: np.ndarray) -> str:
    """The path of the layer whose weight has these rows."""
    for slot in graph.slots:
        for _, _, labels in slot.tied():
            if np.array_equal(labels, rows):
                return slot.path
    return ""
