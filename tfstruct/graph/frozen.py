"""Weights that the user has frozen: `trainable = False` of a layer, of a model around it, or of the weight."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfstruct.errors import ModelError
from tfstruct.graph.groups import Group, groups
from tfstruct.graph.kernels import Kernel
from tfstruct.graph.trace import Graph
from tfstruct.keras_internals.layer_parts import all_layers, own_trainable

_WHY = "frozen (trainable=False)"


def frozen_weights(model: keras.Model) -> set[int]:
    """The ids of all weights that would train if nothing were frozen; moving statistics are not among them."""
    every = {id(v) for layer in all_layers(model) for v in own_trainable(layer)}
    return every - {id(v) for v in model.trainable_variables}


def without_frozen(model: keras.Model, found: Sequence[Kernel]) -> tuple[list[Kernel], list[tuple[str, str]]]:
    """The kernels that train, and (kernel, why it is left alone) for the others.

    Raises:
        ModelError: none of them trains.
    """
    frozen = frozen_weights(model)
    left = [kernel for kernel in found if id(kernel.variable) in frozen]
    if len(left) == len(found):
        raise ModelError(
            f"All {len(left)} kernels that could be taken are {_WHY}: {_some([kernel.name for kernel in left])}. "
            "Unfreeze them, or give frozen=True, which takes frozen ones too."
        )
    return [kernel for kernel in found if id(kernel.variable) not in frozen], [(kernel.name, _WHY) for kernel in left]


def groups_without_frozen(graph: Graph, found: Mapping[str, Group]) -> dict[str, Group]:
    """The same groups; none of the channels can go that a frozen weight makes, carries or reads."""
    frozen, units = frozen_weights(graph.model), graph.units
    layers: dict[int, set[str]] = {}  # by unit, the layers whose frozen weights have it
    for slot in graph.slots:
        if id(slot.variable) in frozen:
            for axis in slot.axes:
                for unit in np.unique(units.parts[axis.labels]).tolist() if axis is not None else ():
                    layers.setdefault(unit, set()).add(slot.path)
    result = {}
    for name, group in found.items():
        held = set().union(*(layers.get(unit, ()) for unit in group.units.tolist()))
        if held and group.prunable:
            group = dataclasses.replace(group, free=group.free[:0], reason=f"{_WHY}: {_some(sorted(held))}")
        result[name] = group
    return result


def frozen_makers(graph: Graph) -> dict[str, str]:
    """The layers that make channels which a frozen weight makes, carries or reads, and why these are left alone."""
    found = {str(i): group for i, group in enumerate(groups(graph))}
    left = groups_without_frozen(graph, found)
    return {path: left[name].reason for name in found if found[name] is not left[name] for path in found[name].makers}


def frozen_note(left: Sequence[tuple[str, str]], what: str) -> list[str]:
    """For a report, in one sentence, how many and which of what was left alone was so as it is frozen."""
    names = [name for name, why in left if why.startswith(_WHY)]
    if not names:
        return []
    return [
        f"{len(names)} {what} left alone as {_WHY}: {_some(names)}. With frozen=True they are taken too, and change."
    ]


def _some(names: Sequence[str], count: int = 6) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
