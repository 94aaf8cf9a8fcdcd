"""One norm for each unit of a model's graph, over all weights that make it."""

import dataclasses
from collections.abc import Container
from typing import Any

import keras
import numpy as np
from keras import ops

from tfstruct.errors import ModelError
from tfstruct.graph import Each, Out, groups, trace
from tfstruct.regularizers.penalty import root, wide
from tfstruct.regularizers.sparsity import GroupLasso


@dataclasses.dataclass(frozen=True)
class _Place:
    """An axis of a weight along which units are made: (position, unit) pairs."""

    variable: keras.Variable
    axis: int
    positions: np.ndarray
    units: np.ndarray


class ChannelNorms:
    """sum over units of sqrt(|g|) * ||w_g||, as one value for a whole model.

    Every weight of it carries a `GroupLasso` tied to this object; the first that is trained hands out the whole value,
    the others 0. Weights that are frozen, or were given another regularizer since, are left out of the norms.
    """

    def __init__(self, places: list[_Place], count: int):
        self._places, self._count = places, count
        self._holders: dict[int, GroupLasso] = {}

    @property
    def variables(self) -> list[keras.Variable]:
        return list({id(p.variable): p.variable for p in self._places}.values())

    def tie(self, regularizer: GroupLasso) -> dict[int, GroupLasso]:
        """By id of a weight, the regularizer that it carries."""
        for variable in self.variables:
            held = GroupLasso(regularizer.strength, "channel")
            held._tied = self._value
            self._holders[id(variable)] = held
        return dict(self._holders)

    def _value(self, holder: GroupLasso):
        active = [v for v in self.variables if v.trainable and v.regularizer is self._holders[id(v)]]
        if not active or self._holders[id(active[0])] is not holder:
            return 0.0
        kept = {id(v) for v in active}
        squares: Any = 0.0  # a tensor from the first weight on
        sizes = np.zeros(self._count)
        for place in self._places:
            if id(place.variable) not in kept:
                continue
            w = ops.cast(place.variable, wide(place.variable))
            others = [a for a in range(len(w.shape)) if a != place.axis]
            square = ops.sum(ops.square(w), axis=others) if others else ops.square(w)
            square = ops.segment_sum(ops.take(square, place.positions), place.units, num_segments=self._count)
            squares = squares + square
            weights = np.prod([w.shape[a] for a in others], dtype=float)
            sizes += np.bincount(place.units, minlength=self._count) * weights
        return ops.sum(ops.convert_to_tensor(np.sqrt(sizes), squares.dtype) * root(squares))


def channel_norms(model: keras.Model, trained: Container[int], chosen: Container[int]) -> ChannelNorms:
    """The units that can go of the groups that one of the chosen weights makes.

    Args:
        trained, chosen: ids of weights: those that training may change, those whose groups are meant.

    Raises:
        ModelError: the model has no graph, or none of these groups can lose a channel.
    """
    graph = trace(model)
    slots = [slot for slot in graph.slots if id(slot.variable) in trained]
    found, reasons = np.zeros(graph.units.count, bool), []
    made = {
        unit
        for slot in slots
        for along in slot.axes
        if id(slot.variable) in chosen and isinstance(along, Out | Each) and along.labels is not None
        for unit in graph.units.of(along.labels).tolist()
    }
    for group in groups(graph):
        if made & set(group.units.tolist()):
            found[group.free] = True
            reasons.append(f"{group.name} ({group.reason})")
    if not found.any():
        raise ModelError(
            f"No channel of `{model.name}` can go{': ' if reasons else ''}{'; '.join(reasons[:4])}. "
            "tfstruct.explain(model) says more; GroupLasso by filter penalizes single kernels."
        )
    number = np.cumsum(found) - 1
    places = []
    for slot in slots:
        for axis, along in enumerate(slot.axes):
            if isinstance(along, Out | Each):
                # A channel of several units, such as a head's width, counts in the norm of each.
                position, column = np.nonzero(found[graph.units.parts[along.labels]])
                if len(position):
                    units = number[graph.units.parts[along.labels][position, column]]
                    places.append(_Place(slot.variable, axis, position, units))
    return ChannelNorms(places, int(found.sum()))
