"""The channels of a model as sets of weight entries that are zero together: plain data, found again in variables."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from keras import layers, ops

from tfstruct.analyze.names import by_name
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.graph import Graph, In, trace
from tfstruct.graph.keras_model import require_model
from tfstruct.graph.operation_traits import function_traits, traits_of


@dataclasses.dataclass(frozen=True)
class Place:
    """An axis of a variable: `units[i]` is the unit that position i belongs to, -1 for none."""

    index: int
    path: str
    axis: int
    units: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ChannelUnits:
    """Which entries of which variables make each channel: kernels' filters, biases, gamma and beta, of all its layers.

    Attributes:
        groups: (name, number of units) of each; units are numbered through all groups.
        places: where they are. No entry belongs to two units.
        shapes: of all trainable variables of the model, in order.
    """

    groups: tuple[tuple[str, int], ...]
    places: tuple[Place, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        return sum(width for _, width in self.groups)

    def to_config(self) -> dict:
        return {
            "groups": [list(group) for group in self.groups],
            "places": [[p.index, p.path, p.axis, list(p.units)] for p in self.places],
            "shapes": [list(shape) for shape in self.shapes],
        }

    @classmethod
    def from_config(cls, config: dict) -> "ChannelUnits":
        return cls(
            tuple((name, int(width)) for name, width in config["groups"]),
            tuple(Place(index, path, axis, tuple(units)) for index, path, axis, units in config["places"]),
            tuple(tuple(shape) for shape in config["shapes"]),
        )

    def bind(self, variables: Sequence) -> "BoundUnits":
        """The units in an optimizer's variables: by path or, where layers have other names, by position if all shapes
        are those of the model the units were found in.

        Raises:
            ArgumentError: neither fits.
        """
        shapes = tuple(tuple(v.shape) for v in variables)
        known: dict[str, list[int]] = {}
        for i, variable in enumerate(variables):
            known.setdefault(getattr(variable, "path", variable.name), []).append(i)
        missing = [
            p.path for p in self.places
            if len(known.get(p.path, ())) != 1 or shapes[known[p.path][0]] != self.shapes[p.index]
        ]  # fmt: skip
        if not missing:
            found = [known[p.path][0] for p in self.places]
        elif shapes == self.shapes:
            found = [p.index for p in self.places]
        else:
            raise ArgumentError(
                "The optimizer's channel groups were found in another model: expected trainable variables with the "
                f"paths and shapes of that one. Received {len(variables)} variables; not among them, or of another "
                f"shape: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. Make the optimizer with the "
                "model that it trains, after layers are frozen or thawed."
            )
        return BoundUnits(self, tuple(zip(found, self.places, strict=True)))


class BoundUnits:
    """Sums over units, and factors on them, for lists of values in the order of an optimizer's variables."""

    def __init__(self, units: ChannelUnits, places: tuple[tuple[int, Place], ...]):
        self.units, self.places = units, places
        # Weights of each unit.
        self.sizes = np.zeros(units.count)
        rows: list[list[int]] = [[] for _ in range(units.count)]
        start = 0
        for _, place in places:
            for position, unit in enumerate(place.units):
                if unit >= 0:
                    rows[unit].append(start + position)
                    self.sizes[unit] += math.prod(units.shapes[place.index]) // len(place.units)
            start += len(place.units)
        # Gathered, not scattered: a sum in one fixed order is the same in every replica.
        self._rows = np.full((len(rows), max(map(len, rows))), start)
        for row, positions in zip(self._rows, rows, strict=True):
            row[: len(positions)] = positions

    def by_channel(self, values: Sequence) -> list:
        """For each place, the sum of squares at each position of its axis."""
        found = []
        for index, place in self.places:
            value = ops.cast(values[index], "float32")
            others = [i for i in range(len(value.shape)) if i != place.axis]
            found.append(ops.sum(ops.square(value), axis=others))
        return found

    def total(self, by_channel: Sequence):
        """Shape (units,): what the positions of each unit have, added up."""
        flat = ops.concatenate([*by_channel, ops.zeros((1,), "float32")])
        return ops.sum(ops.take(flat, self._rows), axis=1)

    def scaled(self, values: Sequence, factors) -> list:
        """The values with each unit's entries times its factor: exactly 0 where that is 0."""
        values, factors = list(values), ops.concatenate([factors, ops.ones((1,), factors.dtype)])
        for index, place in self.places:
            own = ops.take(factors, np.array([u if u >= 0 else self.units.count for u in place.units]))
            shape = [-1 if i == place.axis else 1 for i in range(len(values[index].shape))]
            own = ops.reshape(ops.cast(own, values[index].dtype), shape)
            # Not a product alone: infinity times 0 would be NaN.
            values[index] = ops.where(own == 0, ops.zeros_like(values[index]), values[index] * own)
        return values


def channel_units(model, groups: Sequence[str] | None = None, removable: bool = False) -> ChannelUnits:
    """Finds the units of a model's channel groups.

    A unit is left out if it is frozen in the graph, if something that makes it is not trainable, or if its entries
    belong to another group's units too (heads and widths of attention: the group that comes first has them).

    Args:
        model: Sequential or functional.
        groups: names as `tfstruct.explain` has them; by default all.
        removable: only units that are zero throughout the model once their entries are, so that `surgery.shrink`
            removes them: made by layers it can follow, through activations with f(0) = 0, not counted in statistics
            over channels, and not bound into blocks.

    Raises:
        ModelError: an unknown group, one without such units, or no units at all.
    """
    graph = trace(model)
    named = by_name(graph)
    unknown = [name for name in groups or () if name not in named]
    if unknown:
        raise ModelError(f"Expected names of channel groups: {', '.join(named)}. Received: {unknown[0]!r}.")
    trainable = {id(v): i for i, v in enumerate(model.trainable_variables)}
    out = _held(graph, trainable, removable)
    claimed: dict[int, tuple[int, np.ndarray]] = {}
    found: list[tuple[str, int]] = []
    for name, group in named.items():
        if groups is not None and name not in groups:
            continue
        units = [u for u in group.free.tolist() if u not in out]
        if not units or (removable and group.blocks):
            continue
        own = _claims(graph, trainable, units, sum(width for _, width in found), claimed)
        if own:
            claimed.update(own)
            found.append((name, len(units)))
    lacking = [name for name in groups or () if name not in dict(found)]
    if lacking or not found:
        which = f"Group {lacking[0]!r}" if lacking else f"`{model.name}`"
        raise ModelError(
            f"{which} has no channels that an optimizer can bring to zero together: they are frozen (tfstruct.explain "
            "says why), not trainable, or their weights belong to another group."
        )
    variables = model.trainable_variables
    places = (Place(i, variables[i].path, axis, tuple(ids.tolist())) for i, (axis, ids) in sorted(claimed.items()))
    return ChannelUnits(tuple(found), tuple(places), tuple(tuple(v.shape) for v in variables))


def _held(graph: Graph, trainable: dict[int, int], removable: bool) -> set[int]:
    """Units that cannot be brought to zero by training."""
    units, out = graph.units, set()
    if removable:
        out |= set(units.lossy)
    made = {int(u) for labels in graph.makes.values() for u in units.of(labels)}
    out |= {u for u in range(1, units.count) if u not in made}
    for call in graph.calls:
        norm = isinstance(call.op, layers.BatchNormalization)
        scaled = norm and call.op.gamma is not None and id(call.op.gamma) in trainable
        plain = traits_of(call.op).zeroed_by_weights
        for slot in call.slots:
            statistic = norm and "moving" in slot.variable.name
            reaches = scaled if statistic else id(slot.variable) in trainable
            if not reaches or (removable and not plain):
                for axis in slot.axes:
                    if axis is not None and axis.labels is not None and not isinstance(axis, In):
                        out |= set(units.of(axis.labels).tolist())
        if removable and not _keeps_zero(call.op):
            for tensor in call.outputs:
                for labels in tensor.axes:
                    if labels is not None:
                        out |= set(units.of(labels).tolist())
    return out


def _keeps_zero(op) -> bool:
    activation = getattr(op, "activation", None)
    if not callable(activation) or function_traits(activation).keeps_zero:
        return True
    return not ops.convert_to_numpy(activation(ops.zeros((1, 2)))).any()


def _claims(graph: Graph, trainable, units, first: int, claimed) -> dict[int, tuple[int, np.ndarray]]:
    """By variable, the axis and units of its positions; empty if an entry would belong to two units."""
    number = np.full(graph.units.count, -1)
    number[units] = np.arange(first, first + len(units))
    own: dict[int, tuple[int, np.ndarray]] = {}
    for slot in graph.slots:
        if id(slot.variable) not in trainable:
            continue
        for axis, along in enumerate(slot.axes):
            if along is None or isinstance(along, In):
                continue
            parts = graph.units.parts[along.labels]
            ids = number[parts]
            if (ids < 0).all():
                continue
            if ((ids >= 0) & ((parts > 0).sum(1, keepdims=True) > 1)).any():
                return {}
            ids = ids.max(1)
            key = trainable[id(slot.variable)]
            if key in own and (own[key][0] != axis or (own[key][1] != ids).any()):
                return {}
            own[key] = axis, ids
    for key, (axis, ids) in own.items():
        if key in claimed:
            other_axis, others = claimed[key]
            if other_axis != axis or ((others >= 0) & (ids >= 0)).any():
                return {}
            own[key] = axis, np.maximum(others, ids)
    return own


def units_of(model, **options) -> ChannelUnits:
    """`channel_units(model)`; of a configuration, as it comes out of a file, the units themselves."""
    if isinstance(model, ChannelUnits):
        return model
    if isinstance(model, dict):
        try:
            return ChannelUnits.from_config(model)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ArgumentError(f"The configuration holds no channel units: {what}.") from error
    require_model(model)
    return channel_units(model, **options)
