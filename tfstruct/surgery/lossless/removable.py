"""Which units can go without changing what the model computes."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from keras import layers

from tfstruct.analyze import masking
from tfstruct.graph import Call, Graph, In
from tfstruct.graph.contraction import Contraction, Weights, contraction, plain
from tfstruct.graph.rules.contractions import subscripts
from tfstruct.keras_internals.layer_parts import stored_weight
from tfstruct.surgery.lossless.constants import along, constants, is_local, summed_over, unknown
from tfstruct.surgery.lossless.products import kernel_of


@dataclasses.dataclass(frozen=True)
class _Zeroed(Weights):
    """Reads masked weights (by id of the variable) as zero where the mask is zero, and as random numbers elsewhere."""

    masks: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def __call__(self, variable) -> np.ndarray:
        mask = self.masks.get(id(variable))
        if mask is None:
            return super().__call__(variable)
        return mask * np.random.default_rng(0).normal(size=mask.shape)


def removable_once_zero(graph: Graph, gone: np.ndarray) -> np.ndarray:
    """Boolean mask of the units that can be removed without loss once the weights of the units `gone` are zero.

    Zero are all weights that produce, carry or read them, but not the statistics of batch normalization. The other
    weights may have any value.
    """
    kept = graph.units.kept(~gone)
    read = _Zeroed(
        masks={id(s.variable): masking.stays(s, kept) for s in graph.slots if "moving" not in s.variable.name}
    )
    return removable(graph, constants(graph, read), read)


@dataclasses.dataclass(frozen=True)
class Summed:
    """A contraction with all calls of its layer, and the input constants that are equal in every call."""

    view: Contraction
    calls: tuple[Call, ...]
    x: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Channels that a weight reads; `needed` returns which of them it needs, given what of an array of labels stays."""

    labels: np.ndarray
    needed: Callable[[Callable[[np.ndarray], np.ndarray]], np.ndarray]


def by_layer(graph: Graph) -> list[list[Call]]:
    """The calls grouped by layer or operation: they share one configuration."""
    found: dict[int, list[Call]] = {}
    for call in graph.calls:
        found.setdefault(id(call.op), []).append(call)
    return list(found.values())


def contractions(graph: Graph, values: dict[int, np.ndarray], read: Weights) -> Iterator[Summed]:
    """Every dense layer and convolution whose input carries channels."""
    for calls in by_layer(graph):
        views = [view for call in calls if (view := contraction(call)) is not None]
        if len(views) < len(calls) or views[0].labels is None or any(v.groups != views[0].groups for v in views):
            continue
        each = [
            summed_over(view, values.get(call.input.key, unknown(call.input.rank)), read)
            for view, call in zip(views, calls, strict=True)
        ]
        if any(len(x) != len(each[0]) for x in each):
            continue
        same = np.all([x == each[0] for x in each], axis=0)
        yield Summed(views[0], tuple(calls), np.where(same, each[0], np.nan))


def removable(graph: Graph, values: dict[int, np.ndarray], read: Weights) -> np.ndarray:
    """Boolean mask of the largest set of units that can be removed without changing any consumer.

    A contraction can do without a channel that is constant (its share moves into the bias), that it reads with zero
    weights, or that it reads only for outputs that are removed too. A layer that computes each channel on its own can
    do without any. Any other layer can do without zero channels only. Of every axis at least one channel stays, and
    equally many of each block.
    """
    units = graph.units
    goes = _candidates(graph)
    readers = []
    known = {id(call.op): summed for summed in contractions(graph, values, read) for call in summed.calls[:1]}
    for calls in by_layer(graph):
        summed = known.get(id(calls[0].op))
        if summed is not None:
            readers.append(_contraction_reader(summed, read))
        elif all(is_local(call) or _reads_no_channels(call) for call in calls):
            continue
        elif all(kernel_of(call, values) is not None for call in calls):
            readers += [_product_reader(call, values) for call in calls if call.input.axes[-1] is not None]
        elif all(plain(call, layers.EinsumDense) for call in calls):
            readers += [reader for call in calls for reader in _einsum_readers(graph, call, values, read)]
        else:
            for call in calls:
                _hold_what_is_inside(graph, call, goes)
                for arrived in _arrivals(call, values):
                    if arrived is not None:
                        labels, zero = arrived
                        _hold(units, goes, labels[~zero])
    score = _scores(graph, values)
    while True:
        _settle(units, goes, readers)
        if not _stays_too(graph, goes, score):
            return goes


def _candidates(graph: Graph) -> np.ndarray:
    """Units that appear in a tensor and are not frozen."""
    units = graph.units
    goes = np.zeros(units.count, bool)
    for call in graph.calls:
        for labels in _labels_of(call):
            goes[units.of(labels)] = True
    goes[[0, *units.frozen, *units.lossy]] = False
    return goes


def _labels_of(call: Call) -> list[np.ndarray]:
    return [labels for tensor in (*call.inputs, *call.outputs) for labels in tensor.axes if labels is not None]


def _hold(units, goes: np.ndarray, labels: np.ndarray) -> None:
    goes[units.parts[labels]] = False


def _reads_no_channels(call: Call) -> bool:
    view = contraction(call)
    return view is not None and view.labels is None


def _hold_what_is_inside(graph: Graph, call: Call, goes: np.ndarray) -> None:
    """Keeps the units of a layer's outputs and internal weights, as nothing is known of their values."""
    for tensor in call.outputs:
        for labels in tensor.axes:
            if labels is not None:
                _hold(graph.units, goes, labels)
    for variable in getattr(call.op, "weights", ()):
        slot = graph.slot_of.get(id(variable))
        for _, role, labels in slot.tied() if slot is not None else ():
            if not isinstance(role, In):
                _hold(graph.units, goes, labels)


def _arrivals(call: Call, values) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """For each input axis: its labels, and which of them are zero at all positions; None if it carries no channels."""
    for tensor in call.inputs:
        for axis, labels in enumerate(tensor.axes):
            if labels is None:
                yield None
            else:
                yield labels, along(values.get(tensor.key, unknown(tensor.rank)), axis, len(labels)) == 0


def _contraction_reader(summed: Summed, read: Weights) -> _Reader:
    view, labels = summed.view, summed.view.labels
    assert labels is not None  # `contractions` yields no others
    missed = np.flatnonzero(np.isnan(summed.x))
    made = view.call.outputs[0].axes[view.out_axis]
    reaches = functools.cache(lambda: view.reads(missed, read))  # a look at a whole kernel, which few readers need

    def needed(stays) -> np.ndarray:
        return np.any(reaches() if made is None else reaches()[:, stays(made)], axis=1)

    return _Reader(labels[missed], needed)


def _product_reader(call: Call, values) -> _Reader:
    """Of a product with a weight: it has no bias that could take constants up, so it does without zeros only."""
    kernel, labels = kernel_of(call, values), call.input.axes[-1]
    assert kernel is not None and labels is not None
    x = along(values.get(call.input.key, unknown(call.input.rank)), call.input.rank - 1, len(labels))
    missed = np.flatnonzero(x != 0)
    reaches, made = kernel[missed] != 0, call.outputs[0].axes[-1]
    return _Reader(labels[missed], lambda stays: np.any(reaches if made is None else reaches[:, stays(made)], axis=1))


def _einsum_readers(graph: Graph, call: Call, values, read: Weights) -> list[_Reader]:
    """One reader for each axis that an einsum sums over."""
    came, letters, out = subscripts(call.op.equation, call.input.rank)
    slot = graph.slot_of.get(id(stored_weight(call.op)))
    ties = [] if slot is None else list(slot.tied())
    readers = []
    for letter, arrived in zip(came, _arrivals(call, values), strict=True):
        if arrived is None or letter in out:
            continue
        labels, zero = arrived
        missed = np.flatnonzero(~zero)
        kernel = read(stored_weight(call.op)) != 0
        axis = letters.find(letter)
        if axis >= 0:
            kernel = np.take(kernel, missed, axis)
        others = [(i, own) for i, _, own in ties if i != axis]

        def needed(stays, kernel=kernel, others=others, axis=axis, missed=missed):
            if axis < 0:
                return np.ones(len(missed), bool)
            for i, own in others:
                kernel = np.compress(stays(own), kernel, i)
            return kernel.any(tuple(i for i in range(kernel.ndim) if i != axis))

        readers.append(_Reader(labels[missed], needed))
    return readers


def _settle(units, goes: np.ndarray, readers: list[_Reader]) -> None:
    """Keeps the units that a reader needs, until no reader needs more."""

    def stays(labels: np.ndarray) -> np.ndarray:
        return ~goes[units.parts[labels]].any(axis=1)

    while True:
        before = goes.sum()
        for reader in reversed(readers):  # what a layer needs depends on what is needed of its outputs
            if goes[units.parts[reader.labels]].any():
                _hold(units, goes, reader.labels[reader.needed(stays)])
        if goes.sum() == before:
            return


def _scores(graph: Graph, values) -> np.ndarray:
    """Score of each unit: 2 if it is zero in every tensor, 1 if constant, else 0. If a unit must be kept, prefer one
    whose value is zero."""
    units = graph.units
    score = np.full(units.count, 2)
    for call in graph.calls:
        for tensor in (*call.inputs, *call.outputs):
            for axis, labels in enumerate(tensor.axes):
                if labels is not None:
                    here = along(values.get(tensor.key, unknown(tensor.rank)), axis, len(labels))
                    own = np.where(np.isnan(here), 0, np.where(here == 0, 2, 1))
                    np.minimum.at(score, units.parts[labels], own[:, None])
    return score


def _stays_too(graph: Graph, goes: np.ndarray, score: np.ndarray) -> bool:
    """Keeps one unit of an axis that would be empty, and the surplus of a block; returns whether any was kept."""
    units = graph.units
    axes = [labels for call in graph.calls for labels in _labels_of(call)]
    axes += [labels for slot in graph.slots for _, _, labels in slot.tied()]
    seen: set[int] = set()
    changed = False
    for labels in axes:
        if id(labels) in seen:
            continue
        seen.add(id(labels))
        parts = units.parts[labels]
        if len(labels) and goes[parts].any(1).all():
            best = int(np.argmax(score[parts].min(1)))
            goes[parts[best]] = False
            changed = True
    for rows in units.blocks:
        gone = goes[rows]
        fewest = int(gone.sum(1).min())
        for row in rows:
            surplus = [u for u in row[np.argsort(-score[row], kind="stable")].tolist() if goes[u]][fewest:]
            goes[surplus] = False
            changed |= bool(surplus)
    return changed
