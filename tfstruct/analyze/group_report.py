"""Which channels of a model go together, whether they can go, and why not."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from tfstruct.analyze.drawing import Picture, draw, picture_of, size
from tfstruct.analyze.names import by_name
from tfstruct.analyze.weight_criteria import is_kernel
from tfstruct.graph import Graph, Group, Out, open_and_trace, stay_whole
from tfstruct.reporting import OpenedReport, Plotted, Sheet
from tfstruct.reporting.tables import by_reason, named


@dataclasses.dataclass(frozen=True)
class GroupRow:
    """One group of coupled channels.

    Attributes:
        name: of the first layer that makes its channels.
        makers: all that make them.
        members: (layer, weight, axis, role) of every axis of every weight that shrinks with it; the role is `"makes"`,
            `"reads"` or `"carries"`.
        channels: how many it has; of coupled channels, and of those that go together, one is counted.
        removable: how many of them can go.
        reason: why the others cannot; empty if all can.
        lossy: why removing one changes what the others compute; empty if it does not.
        blocks: (blocks, units a block) for each constraint: equally many have to stay in each block.
    """

    name: str
    makers: tuple[str, ...]
    members: tuple[tuple[str, str, int, str], ...]
    channels: int
    removable: int
    reason: str
    lossy: str
    blocks: tuple[tuple[int, int], ...]

    @property
    def prunable(self) -> bool:
        return self.removable > 0

    @property
    def lossless(self) -> bool:
        return not self.lossy

    def state(self) -> str:
        """One line: what can go, and why not more."""
        if not self.prunable:
            return f"frozen: {self.reason}"
        parts = [f"{self.removable} of {self.channels} removable" + (f"; {self.reason}" if self.reason else "")]
        parts += [f"equally many of each of {count} blocks of {size}" for count, size in self.blocks]
        return "; ".join([*parts, *([f"not lossless: {self.lossy}"] if self.lossy else [])])


@dataclasses.dataclass(frozen=True)
class GroupReport(Plotted, OpenedReport):
    """Every group of coupled channels of a model.

    `plot` draws the network: operations as boxes in the colour of the group that they carry, hatched where it cannot
    shrink.

    Attributes:
        model: its name.
        groups: in the order in which the model makes them.
        channels: that kernels make (convolutions, dense, recurrent and attention layers), in all.
        removable: how many of them can go.
        whole: path of a layer with a kernel -> why none of its channels can go; of layers inside of others too, such as
            those in a wrapper or a layer that no rule knows, whose channels are not among `channels`.
        picture: what `plot` draws.
    """

    model: str
    groups: tuple[GroupRow, ...]
    channels: int
    removable: int
    whole: dict[str, str]
    picture: Picture = dataclasses.field(repr=False, compare=False)

    @property
    def share(self) -> float:
        """The share of the channels that is removable."""
        return self.removable / self.channels if self.channels else 0.0

    _derived: ClassVar[tuple[str, ...]] = ("share",)

    def to_dict(self) -> dict[str, Any]:
        data = super().to_dict()
        for row, plain in zip(self.groups, data["groups"], strict=True):
            plain |= {"prunable": row.prunable, "lossless": row.lossless}
            plain["members"] = [dict(zip(("layer", "weight", "axis", "role"), m, strict=True)) for m in row.members]
        return data

    def summary(self) -> str:
        """The share of channels that can go, in one line."""
        prunable = sum(row.prunable for row in self.groups)
        return (
            f"{self.model}: {self.removable:,} of {self.channels:,} channels ({self.share:.0%}) can go, in "
            f"{prunable} of {len(self.groups)} groups"
        )

    def sheet(self) -> Sheet:
        columns = ("group", ("channels", ",d"), "made by", "carried by", "read by", "state")
        rows = []
        for row in self.groups:
            carried, read = ([m[0] for m in row.members if m[3] == role] for role in ("carries", "reads"))
            rows.append((row.name, row.channels, named(row.makers), named(carried), named(read), row.state()))
        listed = {maker for row in self.groups for maker in row.makers}
        notes = by_reason("stays whole", {path: why for path, why in self.whole.items() if path not in listed})
        marks = {i: "weak" for i, row in enumerate(self.groups) if not row.prunable}
        return Sheet(self.summary(), columns, rows, notes=notes, marks=marks)

    def _size(self) -> tuple[float, float]:
        return size(self.picture)

    def _draw(self, axis) -> None:
        draw(self.picture, axis)


def explain(model, *, open_layers: str | bool = "auto") -> GroupReport:
    """Traces a model and lists its groups of coupled channels: prunable, or frozen and why.

    Args:
        model: a built Sequential or functional `keras.Model`; or an already traced `Graph`.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `GroupReport`: the groups, each prunable or with the reason why not; `str()` is a table.

    Raises:
        ModelError: a subclassed model, whose graph is hidden in its `call`.

    Example:
        >>> report = tfstruct.explain(convnet)
        >>> [(group.name, group.channels) for group in report.groups if group.removable]
        [('stem', 8), ('down', 8)]
    """
    graph = model if isinstance(model, Graph) else open_and_trace(model, open_layers=open_layers)
    named = by_name(graph)
    free = np.zeros(graph.units.count, bool)
    for group in named.values():
        free[group.free] = True
    made, can_go = _channels(graph, free)
    rows = tuple(_row(name, group) for name, group in named.items())
    whole = stay_whole(graph, tuple(named.values()))
    return GroupReport(
        graph.model.name, rows, made, can_go, whole, picture_of(graph, named), opened=graph.opened, opaque=graph.opaque
    )


def _row(name: str, group: Group) -> GroupRow:
    members = dict.fromkeys((m.path, m.weight, m.axis, m.role) for m in group.members)
    return GroupRow(
        name=name,
        makers=group.makers,
        members=tuple(members),
        channels=group.width,
        removable=len(group.free),
        reason=group.reason,
        lossy=group.lossy,
        blocks=tuple((len(b), int(b.shape[1])) for b in group.blocks),
    )


def _channels(graph: Graph, free: np.ndarray) -> tuple[int, int]:
    """How many channels kernels make, and how many of them can go: those behind which a unit can."""
    labels: set[int] = set()
    for slot in graph.slots:
        if is_kernel(slot.variable):
            for _, along, own in slot.tied():
                if isinstance(along, Out):
                    labels.update(own.tolist())
    numbers = np.array(sorted(labels), int)
    return len(numbers), int(free[graph.units.parts[numbers]].any(axis=1).sum())
