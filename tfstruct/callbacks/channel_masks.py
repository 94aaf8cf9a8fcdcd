"""Whole channels masked in training: which can be, and masks on every weight that makes, carries or reads them."""

from collections.abc import Sequence

import numpy as np

from tfstruct.analyze.masking import stays
from tfstruct.analyze.names import by_name
from tfstruct.callbacks.constraints import Scaled
from tfstruct.errors import ModelError
from tfstruct.graph import Graph, Group
from tfstruct.graph.call import Slot
from tfstruct.graph.frozen import groups_without_frozen
from tfstruct.surgery.lossless.removable import removable_once_zero
from tfstruct.surgery.pruning.removals import excluded, removals_of


def lossless_groups(graph: Graph, exclude: Sequence[str], frozen: bool) -> tuple[dict[str, Group], dict[str, str]]:
    """The groups whose channels `shrink` removes once their weights are zero, and why the others are left alone.

    It is tried on the graph, for as many channels at once as can go, from either end.

    Args:
        graph: of the model.
        exclude: as in `plan_channels`.
        frozen: whether channels of frozen weights may go too.
    """
    found, alone = {}, {}
    named = by_name(graph)
    for name, group in (named if frozen else groups_without_frozen(graph, named)).items():
        if not group.prunable:
            alone[name] = group.reason
        elif excluded(group, exclude):
            alone[name] = "excluded"
        elif group.lossy:
            alone[name] = f"{group.lossy}, so a channel less changes the others"
        else:
            found[name] = group
    while lost := [name for name, group in found.items() if _missed(graph, found)[group.units].any()]:
        for name in lost:
            del found[name]
            alone[name] = "a layer behind it needs its zeros, or makes something of them, so shrink would keep them"
    return found, alone


def _missed(graph: Graph, found: dict[str, Group]) -> np.ndarray:
    """By unit, whether something would still need it."""
    missed = none = np.zeros(graph.units.count, bool)
    for sign in (1, -1):
        scores = sign * np.arange(graph.units.count, dtype=float)
        gone = none.copy()
        for removals in removals_of(graph, list(found.values()), scores, None, 1, 1.0, (), none):
            for removal in removals:
                gone[list(removal.units)] = True
        missed = missed | (gone & ~removable_once_zero(graph, gone))
    return missed


class ChannelMasks:
    """Masks on the weights of some units, as one factor a unit: w <- f_i * f_o * w for an entry that belongs to the
    units i and o. Moving statistics are no weights.

    Args:
        graph: of the model.
        units: boolean, which units may get a factor other than 1.
        owner: who masks, for messages.
    """

    def __init__(self, graph: Graph, units: np.ndarray, owner: str):
        self._graph = graph
        self._slots = [slot for slot in graph.slots if "moving" not in slot.variable.name and self._has(slot, units)]
        self.masked: list[Scaled] = []
        try:
            for slot in self._slots:
                self.masked.append(Scaled(slot.variable, owner))
        except ModelError:
            self.remove()
            raise

    def _has(self, slot: Slot, units: np.ndarray) -> bool:
        return any(units[self._graph.units.parts[axis.labels]].any() for axis in slot.axes if axis is not None)

    def set(self, factors: np.ndarray) -> None:
        """Takes new factors, by unit; what has the factor 0 is zero at once."""
        by_label = factors[self._graph.units.parts].min(axis=1)
        for slot, masked in zip(self._slots, self.masked, strict=True):
            mask = stays(slot, by_label).astype(masked.mask.dtype)
            if not np.array_equal(mask, masked.mask.numpy()):
                masked.set(mask)

    def zero_already(self, factors: np.ndarray) -> bool:
        """Whether the weights of all units with the factor 0 are zero, whatever the masks are."""
        by_label = factors[self._graph.units.parts].min(axis=1)
        return not any(slot.variable.numpy()[stays(slot, by_label) == 0].any() for slot in self._slots)

    def norms(self) -> np.ndarray:
        """By unit, the Euclidean norm of all its weights."""
        total = np.zeros(self._graph.units.count)
        for slot in self._slots:
            square = slot.variable.numpy().astype(np.float64) ** 2
            for axis, along in enumerate(slot.axes):
                if along is None or (slot.groups > 1 and axis == square.ndim - 2):
                    continue
                own = square.sum(axis=tuple(i for i in range(square.ndim) if i != axis))
                np.add.at(total, self._graph.units.parts[along.labels], own[:, None])
        return np.sqrt(total)

    def hold(self) -> bool:
        """Whether the weights are zero where they should be."""
        return all(masked.holds() for masked in self.masked)

    def apply(self) -> None:
        for masked in self.masked:
            masked.apply()

    def remove(self) -> None:
        for masked in self.masked:
            masked.remove()
