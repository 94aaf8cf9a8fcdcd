"""One operation called once: what a rule reads and what it notes down."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from tfstruct.graph.labels import FIXED, Labels

# By axis: the labels of its channels, or None for an axis that carries none (batch, height, time, a model's input).
Axes = tuple[np.ndarray | None, ...]
# From labels to the positions that stay; a position that is there several times is copied.
Kept = Callable[[np.ndarray], np.ndarray]


def copies(places: np.ndarray) -> np.ndarray:
    """For each position, how many times it is there."""
    return np.bincount(places)[places] if len(places) else places


def followed(kept: Kept, labels: np.ndarray, places: np.ndarray) -> np.ndarray:
    """For each entry of `labels[places]` that stays: where it is afterwards among those of `labels`."""
    stays, wanted = kept(labels), kept(labels[places])
    order = np.argsort(stays, kind="stable")
    first = np.searchsorted(stays[order], places[wanted])
    return order[first + _earlier(wanted)]


def _earlier(places: np.ndarray) -> np.ndarray:
    """For each position, how many times it is there before."""
    order = np.argsort(places, kind="stable")
    found = np.empty(len(places), int)
    found[order] = np.arange(len(places)) - np.searchsorted(places[order], places[order])
    return found


@dataclasses.dataclass(frozen=True)
class Channels:
    """A tensor as the rules see it: its shape (None where unknown) and the labels of each axis.

    Attributes:
        key: its number.
        per_sample: entries of the batch axis for one sample: more than 1 where steps or windows were folded into the
            batch, NaN where that depends on an open size.
    """

    shape: tuple[int | None, ...]
    axes: Axes
    key: int
    per_sample: float = 1.0

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclasses.dataclass(frozen=True)
class In:
    """An axis of a weight that is summed over: one entry for each channel that comes in."""

    labels: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Out:
    """An axis of a weight with one entry for each channel that goes out."""

    labels: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Each:
    """An axis of a weight with one entry for each channel that passes through."""

    labels: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Slot:
    """A weight and which channels its axes belong to.

    Attributes:
        groups: above 1 for the kernel of a grouped convolution: axis -2 counts the channels inside a group, while its
            labels are those of all groups.
        scale: None, or a function of `kept` to a factor on what is left, a number, or one for each
            entry of the last axis.
    """

    variable: keras.Variable
    path: str
    axes: tuple[In | Out | Each | None, ...]
    groups: int = 1
    scale: Callable[[Kept], float | np.ndarray] | None = None

    def tied(self) -> Iterator[tuple[int, In | Out | Each, np.ndarray]]:
        """Each axis that belongs to channels: its number, how it does, and their labels."""
        for axis, along in enumerate(self.axes):
            if along is not None and along.labels is not None:
                yield axis, along, along.labels

    def stays(self, kept: Kept) -> bool:
        """Whether surgery leaves the weight as it is."""
        return self.scale is None and all(len(kept(labels)) == len(labels) for _, _, labels in self.tied())

    def take(self, value: np.ndarray, kept: Kept) -> np.ndarray:
        """The part of an array of the weight's shape that stays; copies of a channel share what they add to a sum."""
        axes = [None if axis is None else axis.labels for axis in self.axes]
        if self.groups > 1:
            ins, outs = axes[-2:]
            assert ins is not None and outs is not None
            value = self._take_grouped(value, kept(ins), kept(outs), len(ins))
            axes = [*axes[:-2], None, None]
        for i, labels in enumerate(axes):
            if labels is not None:
                places = kept(labels)
                if len(places) != len(labels):
                    value = np.take(value, places, axis=i)
                    if isinstance(self.axes[i], In):
                        value = _shared_out(value, copies(places), i)
        if self.scale is not None:
            value = (value * self.scale(kept)).astype(value.dtype)
        return value

    def _take_grouped(self, value, ins, outs, width):
        per_in, per_out = width // self.groups, value.shape[-1] // self.groups
        parts = []
        for group in range(self.groups):
            i = ins[ins // per_in == group] % per_in
            o = outs[outs // per_out == group]
            parts.append(_shared_out(value[..., i, :][..., o], copies(i), value.ndim - 2))
        return np.concatenate(parts, axis=-1)


def _shared_out(value: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
    if (counts == 1).all():
        return value
    return (value / counts.reshape([-1 if i == axis else 1 for i in range(value.ndim)])).astype(value.dtype)


class Call:
    """What a rule gets: the operation, its inputs, and methods that note what follows from them.

    A rule returns the axes of each output; see `tfstruct.graph.rule`.

    Attributes:
        op: the layer or operation.
        path: its name, after the names of the nested models it is in: `block/conv`.
        inputs: the `Channels` of every tensor among its arguments, in their order.
        shapes: the shape of every output.
        slots, edits, costs, makes: what the rule noted.
        per_sample: of its inputs, see `Channels`.
        independent: set by a rule whose layer can be called on tensors of several shapes: its calls share nothing but
            its weights and the labels that it makes.
        folds: set by a rule whose operation may fold axes into the batch, or unfold them.
        offsets: what surgery adds to the layer's weights, by the attribute that holds the weight.
        lookups: (labels of the rows of a table, the ids that are looked up in it), where rows count as channels.
        enter: `enter(model, name, inputs)` walks a functional model that the layer holds, on `Channels`: returns its
            calls and outputs, whose labels are those of the whole.
        opaque: why no rule follows what happens inside, so that what it costs has to be counted in another way; empty
            where one does.
    """

    def __init__(self, op, path: str, node, inputs: Sequence[Channels], shapes, labels: Labels, shared: dict):
        self.op, self.path, self.node, self.labels = op, path, node, labels
        self.inputs = tuple(inputs)
        self.per_sample = float(np.max([x.per_sample for x in inputs])) if self.inputs else 1.0
        self.shapes = [tuple(s) for s in shapes]
        self.outputs: tuple[Channels, ...] = ()
        self.slots: list[Slot] = []
        self.edits: dict[tuple[str | int, ...], Callable[[Kept], object]] = {}
        self.argument_edits: dict[int | str, Callable[[Kept], object]] = {}
        self.costs: list[tuple[float, tuple[np.ndarray, ...]]] = []
        self.makes: dict[str, np.ndarray] = {}
        self.offsets: dict[str, Callable[[Kept], np.ndarray]] = {}
        self.rewrite: Callable | None = None
        self.in_place = False
        self.independent = False
        self.folds = False
        self.lookups: list[tuple[np.ndarray, Channels]] = []
        self.opaque = ""
        self.enter: Callable = _no_entry
        self._shared = shared  # id of a variable -> its slot, over all calls of the trace
        self._inside: tuple[str, ...] = ()

    # What comes in.

    @property
    def input(self) -> Channels:
        return self.inputs[0]

    def argument(self, name: str, default=None):
        """The argument `name` of the call: `Channels` for a tensor, otherwise as it was given."""
        given = self.node.arguments
        try:
            bound = inspect.signature(self.op.call).bind(*given.args, **given.kwargs).arguments
        except TypeError:
            bound = dict(given.kwargs)
        value = bound.get(name, default)
        return keras.tree.map_structure(self._channels, value)

    def _channels(self, value):
        if isinstance(value, keras.KerasTensor):
            for given, channels in zip(self.node.arguments.keras_tensors, self.inputs, strict=True):
                if given is value:
                    return channels
        return value

    # What a rule may note.

    def fresh(self, count: int, what: str = "", *, listed: bool = True) -> np.ndarray:
        """Labels of `count` channels that this operation makes. `plan.keep` lists them under the layer's name, or
        under `name.what` where a layer makes more than one kind, such as an attention layer's heads. Channels that are
        not `listed` go with others that they are united with, never by themselves."""
        key = f"{self.path}.{what}" if what else self.path
        if key not in self._shared:
            self._shared[key] = self.labels.fresh(count)
        if listed:
            self.makes[key] = self._shared[key]
        return self._shared[key]

    def rows(self, count: int) -> np.ndarray | None:
        """Labels of the rows of a table that ids are looked up in; None where these are no channels to the trace."""
        return self.fresh(count, "rows", listed=False) if self.labels.rows else None

    def looks_up(self, rows: np.ndarray | None, ids: Channels) -> None:
        """The operation takes the rows that these ids say."""
        if rows is not None and self.labels.rows:
            self.lookups.append((rows, ids))

    def weight(self, variable, *axes: In | Out | Each | None, groups: int = 1, scale=None) -> None:
        """Ties the axes of a weight to channels; a weight used by several calls ties their channels together."""
        if variable is None:
            return
        axes = tuple(axis if axis is not None and axis.labels is not None else None for axis in axes)
        known = self._shared.get(id(variable))
        if known is None:
            slot = Slot(variable, self.path, axes, groups, scale)
            self._shared[id(variable)] = slot
            self.slots.append(slot)
            return
        for before, now in zip(known.axes, axes, strict=True):
            if before is not None and now is not None:
                self.unite(before.labels, now.labels)
            elif (held := before or now) is not None:
                self.freeze(held.labels, f"{self.path} is shared with a call on other channels")

    def weight_like(self, variable, other) -> None:
        """Ties the axes of a weight to the channels of another one of its shape, entry by entry."""
        slot = self._shared.get(id(other))
        if slot is not None:
            axes = [None if axis is None else Each(axis.labels) for axis in slot.axes]
            self.weight(variable, *axes, groups=slot.groups)

    def set(self, name: str, value, *, within: tuple[str | int, ...] = ()) -> None:
        """After surgery, the entry `name` of the layer's configuration is `value`: an array of labels stands for the
        number of them that stay; a function gets `kept`, which maps labels to the positions that stay. `within`: the
        keys on the way to a configuration inside of it."""
        self.edits[(*self._inside, *within, name)] = _as_function(value)

    def set_argument(self, key: int | str, value) -> None:
        """The same for an argument of the call, by position or name."""
        self.argument_edits[key] = _as_function(value)

    def offset(self, name: str, value: Callable[[Kept], np.ndarray]) -> None:
        """After surgery, the weight `op.name` has `value(kept)` added to what was copied; a weight that only the
        successor has, as its configuration was edited, starts from zero."""
        self.offsets[name] = value

    def macs(self, factor: float | None, *labels: np.ndarray | None) -> None:
        """Notes `factor * product of the numbers of labels` multiply-accumulates for one sample."""
        factor = float("nan") if factor is None else float(factor)
        self.costs.append((factor * self.per_sample, tuple(x for x in labels if x is not None)))

    def unite(self, a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
        """Ties two axes channel by channel. One that carries no channels freezes the other."""
        if a is None or b is None:
            held = a if b is None else b
            if held is not None:
                self.freeze(held, f"{self.path} joins it with an axis that cannot shrink, such as a model's input")
            return held
        self.labels.unite(a, b)
        return a

    def freeze(self, labels: np.ndarray | None, reason: str) -> None:
        """These channels have to stay."""
        if labels is not None:
            self.labels.freeze(labels, reason)

    def freeze_inputs(self, reason: str) -> None:
        """All channels that come in have to stay, as nothing is known of what happens to them."""
        self.opaque = self.opaque or reason
        for tensor in self.inputs:
            for labels in tensor.axes:
                self.freeze(labels, reason)

    def statistics(self, labels: np.ndarray | None) -> None:
        """The operation takes statistics over these channels, so removing some changes the others."""
        if labels is not None:
            self.labels.lossy(labels, f"{self.path} takes statistics over channels")

    def sums(self, labels: np.ndarray | None) -> None:
        """The operation adds these channels up, or multiplies them, without weights: a copy would count twice."""
        if labels is not None:
            self.labels.sums(labels, f"{self.path} sums over channels without weights")

    def blocks(self, labels: np.ndarray | None, count: int) -> None:
        """Of each of `count` consecutive blocks of these labels, equally many have to stay."""
        if labels is not None:
            self.labels.blocks(labels, count, self.path)

    # What many rules need.

    def untouched(self) -> list[Axes]:
        """Outputs that carry no channels."""
        return [(None,) * len(shape) for shape in self.shapes]

    def positions(self, axes: Axes, shape=None) -> float | None:
        """The product of the sizes of the axes that carry no channels, the batch aside; None if one is unknown."""
        sizes = [n for n, labels in list(zip(shape or self.shapes[0], axes, strict=True))[1:] if labels is None]
        return None if None in sizes else float(np.prod(sizes, dtype=float))

    def elementwise(self, tensors: Sequence[Channels] | None = None) -> Axes:
        """Axes of an elementwise result of the inputs, broadcast as NumPy does, united channel by channel."""
        tensors = self.inputs if tensors is None else tensors
        rank = max(t.rank for t in tensors)
        result: list[np.ndarray | None] = []
        for axis in range(-rank, 0):
            present = [(t.shape[axis], t.axes[axis]) for t in tensors if -axis <= t.rank]
            widest = max((np.inf if n is None else n for n, _ in present), default=1)
            wide = [labels for n, labels in present if n is None or n != 1 or widest <= 1]
            for n, labels in present:
                if n == 1 and widest > 1:
                    self.freeze(labels, f"{self.path} broadcasts it over other channels")
            joined = wide[0]
            for labels in wide[1:]:
                joined = self.unite(joined, labels)
            result.append(joined)
        return tuple(result)

    def inside(self, name: str, op, inputs: Sequence[Channels], shapes) -> "Inner":
        """A call of the layer that this one holds under `name` in its configuration."""
        return Inner(self, name, op, inputs, shapes)


class Inner(Call):
    """The call of a wrapped layer: what its rule notes belongs to the wrapper."""

    def __init__(self, outer: Call, name: str, op, inputs, shapes):
        super().__init__(op, outer.path, outer.node, inputs, shapes, outer.labels, outer._shared)
        self.enter = outer.enter
        self.slots, self.edits, self.costs, self.makes = outer.slots, outer.edits, outer.costs, outer.makes
        self._outer = outer
        self._inside = (*outer._inside, name, "config")

    def freeze_inputs(self, reason: str) -> None:
        super().freeze_inputs(reason)
        self._outer.opaque = self._outer.opaque or reason


def _no_entry(model, name, inputs):
    raise NotImplementedError("only the calls of a traced model can be entered")


def _as_function(value) -> Callable[[Kept], object]:
    if isinstance(value, np.ndarray):
        return lambda kept: len(kept(value))
    return value


def fixed(count: int) -> np.ndarray:
    """Labels of channels that always stay."""
    return np.full(count, FIXED)
