"""The coupled channels of a graph as groups: who makes them, who reads them, and whether they can go."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfstruct.graph import blocks as partitions
from tfstruct.graph.call import Call, Each, In, Out
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.graph.trace import Graph
from tfstruct.keras_internals.layer_parts import own_weights

_ROLES = {In: "reads", Out: "makes", Each: "carries"}


@dataclasses.dataclass(frozen=True)
class Member:
    """One axis of one weight. `places`: for each unit of the group, the positions on the axis that go with it."""

    path: str
    weight: str
    axis: int
    role: str
    width: int


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that belong together: each unit of it can be removed, from all members at once.

    Attributes:
        name: of the first layer that makes its channels (`layer.what` where a layer makes several kinds).
        makers: all that make its channels.
        units: the numbers of its units in `Graph.units`; `width` counts them.
        members: every axis of every weight that shrinks with it.
        free: the units that can go.
        reason: why the others cannot; empty if all can.
        lossy: not empty if removing a channel changes the others, and why.
        blocks: shape (count, units in a block) each: equal numbers have to stay in each row.
    """

    name: str
    makers: tuple[str, ...]
    units: np.ndarray
    members: tuple[Member, ...]
    free: np.ndarray
    reason: str
    lossy: str
    blocks: tuple[np.ndarray, ...]

    @property
    def width(self) -> int:
        return len(self.units)

    @property
    def prunable(self) -> bool:
        return len(self.free) > 0


def groups(graph: Graph) -> tuple[Group, ...]:
    """Every group of coupled channels, in the order in which the model makes them.

    Args:
        graph: from `trace`.

    Returns:
        The groups: who makes their channels, who reads them, whether they can go.

    Example:
        >>> len(tfstruct.graph.groups(tfstruct.graph.trace(model)))
        2
    """
    known = vars(graph)  # as with a cached property: what follows of a graph is kept with it
    if "groups" not in known:
        known["groups"] = _found(graph)
    return known["groups"]


def _found(graph: Graph) -> tuple[Group, ...]:
    units = graph.units
    makers: dict[int, list[str]] = {}
    for path, labels in graph.makes.items():
        for number in np.unique(units.bundle[units.of(labels)]).tolist():
            makers.setdefault(number, []).append(path)
    members: dict[int, list[Member]] = {number: [] for number in makers}
    for slot in graph.slots:
        for axis, along, labels in slot.tied():
            for number in np.unique(units.bundle[units.of(labels)]).tolist():
                member = Member(slot.path, slot.variable.name, axis, _ROLES[type(along)], len(labels))
                members.setdefault(number, []).append(member)
    blocks: dict[int, list[np.ndarray]] = {}
    for block in units.blocks:
        blocks.setdefault(int(units.bundle[block.flat[0]]), []).append(block)
    numbers: dict[int, list[int]] = {}
    for unit, number in enumerate(units.bundle.tolist()):
        if unit:
            numbers.setdefault(number, []).append(unit)
    found = []
    for number, paths in makers.items():
        own = np.array(numbers[number])
        why = [units.frozen[u] for u in own.tolist() if u in units.frozen]
        free = np.array([u for u in own.tolist() if u not in units.frozen], int)
        bound = partitions.distinct(tuple(blocks.get(number, ())))
        if len(own) == 1 and not why:
            why, free = ["its channels can only all go together"], free[:0]
        if not partitions.solvable(bound):
            why, free = [*why, "bound into blocks of several kinds at once"], free[:0]
        lossy = next((units.lossy[u] for u in own.tolist() if u in units.lossy), "")
        reason = why[0] if why else ""
        found.append(Group(paths[0], tuple(paths), own, tuple(members[number]), free, reason, lossy, bound))
    return tuple(found)


def stay_whole(graph: Graph, found: Sequence[Group] | None = None) -> dict[str, str]:
    """Why layers with a kernel lose no channel; layers inside of others too.

    Args:
        graph: from `trace`.
        found: the groups of the graph, where they are known.

    Returns:
        Path of a layer -> the reason; without layers of which a channel can go.

    Example:
        >>> tfstruct.graph.stay_whole(tfstruct.graph.trace(model))
        {'scores': "the model's own output"}
    """
    held = {maker: group.reason for group in found or groups(graph) if not group.prunable for maker in group.makers}
    free = {maker for group in found or groups(graph) if group.prunable for maker in group.makers}
    result: dict[str, str] = {}
    for call in graph.calls:
        if call.opaque:
            for path in _with_kernels(call):
                result.setdefault(path, call.opaque)
        for maker in call.makes:
            if maker in held and maker not in free:
                result.setdefault(maker, held[maker])
    return result


def _with_kernels(call: Call) -> list[str]:
    """Paths of the layers of a call that have weights of two axes or more of their own."""
    inner = {"": call.op, **layer_paths(call.op)} if isinstance(call.op, keras.layers.Layer) else {}
    found = [(f"{call.path}/{path}".rstrip("/"), layer) for path, layer in inner.items()]
    return [path for path, one in found if any(len(w.shape) > 1 for w in own_weights(one))]


def last_units(
    graph: Graph, scores: np.ndarray, min_channels: int | Mapping[str, int] = 1, gone: np.ndarray | None = None
) -> set[int]:
    """Units that stay so that no layer, slice or weight is left without a channel: the most important of each.

    A layer keeps its `min_channels` (one number, or a dict by layer); any other axis keeps one. Units that are `gone`
    (boolean, by unit) are none that stay.
    """
    by_path = min_channels if isinstance(min_channels, Mapping) else dict.fromkeys(graph.makes, min_channels)
    parts = graph.units.parts
    wanted: dict[tuple[int, ...], int] = {}
    for path, labels in graph.makes.items():
        if not parts[labels, 1:].any():
            units = tuple(np.unique(parts[labels, 0]).tolist())
            # A layer in which one channel is made of several units (a Flatten has none of its own) counts channels.
            wanted[units] = max(wanted.get(units, 1), by_path.get(path, 1))
    seen: set[bytes] = set()
    for call in graph.calls:
        for channels in call.outputs:
            for own in channels.axes:
                if own is None or own.tobytes() in seen:
                    continue
                seen.add(own.tobytes())
                if not parts[own, 1:].any():
                    wanted.setdefault(tuple(np.unique(parts[own, 0]).tolist()), 1)
    held: set[int] = set()
    frozen = set(graph.units.frozen) | {0}
    for units, least in sorted(wanted.items(), key=lambda item: len(item[0])):
        missing = least - sum(u in held or u in frozen for u in units)
        if missing > 0:
            left = (u for u in units if u not in held and u not in frozen and (gone is None or not gone[u]))
            spare = sorted(left, key=lambda u: (-scores[u], u))
            held.update(spare[:missing])
    return held
