"""`inherit`: the most important channels of a wide model, copied into a narrower one."""

from collections import Counter
from collections.abc import Callable

import keras
import numpy as np

from tfstruct.analyze import unit_scores
from tfstruct.errors import ModelError
from tfstruct.graph import Call, Graph, groups, rebuild, trace
from tfstruct.reporting import InPlaceReport
from tfstruct.reporting.tables import counted

# Where a unit's channels are found: axes of weights and tensors, rows of blocks; the same in both models.
Signature = frozenset[tuple]


def inherit(
    student: keras.Model, teacher: keras.Model, criterion: str | Callable = "l2", *, data=None, loss=None, seed: int = 0
) -> InPlaceReport:
    """Copies the teacher's most important channels into a narrower student of the same architecture.

    Both models are traced and their calls matched in order, whatever the layers are called. Of the teacher's coupled
    channels (residuals, depthwise, concatenations) the least important go, until each layer is as wide as the
    student's; channels that are coupled are chosen as one. All weights of what stays are copied: the student then
    computes what `surgery.apply` makes of the teacher with a plan of these channels. The teacher is not touched.

    Args:
        student: changed: all its weights, those of batch norms' statistics too. Its layers may be frozen.
        teacher: at least as wide everywhere.
        criterion, data, loss, seed: of `tfstruct.analyze.importance`.

    Returns:
        `InPlaceReport`: by layer, how many channels were copied. Its value is the indices of the output channels that
        the student has now, a dict by path of the teacher's layer.

    Raises:
        ModelError: the models differ in more than widths, the student is wider somewhere, or a layer is narrower whose
            channels all have to stay. The student is left as it was.

    Example:
        >>> student = keras.Sequential(
        ...     [keras.Input((8,)), keras.layers.Dense(4, "relu", name="hidden"), keras.layers.Dense(2, name="scores")]
        ... )
        >>> kept = tfstruct.initializers.inherit(student, model)
        >>> len(kept["hidden"])
        4
    """
    taught, teaching = trace(student), trace(teacher)
    _same_calls(taught, teaching)
    scores = unit_scores(teaching, criterion, data=data, loss=loss, reduction="mean", missing="keep", seed=seed)
    keep = _chosen(taught, teaching, scores)
    _, pairs = rebuild(teaching, keep)
    copies: dict[int, tuple[keras.Variable, np.ndarray]] = {}
    for mine, theirs in zip(taught.calls, teaching.calls, strict=True):
        own, others = _weights(mine), _weights(theirs)
        given = [pairs[id(v)][0].numpy() for v in others]
        if [tuple(v.shape) for v in own] != [v.shape for v in given]:
            raise ModelError(
                f"`{mine.path}` of the student has weights of shapes {[tuple(v.shape) for v in own]}; those of "
                f"`{theirs.path}` of the teacher, without the channels that go, are {[v.shape for v in given]}. Only "
                "numbers of channels may differ."
            )
        copies.update({id(v): (v, value) for v, value in zip(own, given, strict=True)})
    for variable, value in copies.values():
        variable.assign(value)
    stays = teaching.units.kept(keep)
    taken = {path: np.flatnonzero(stays[labels]).tolist() for path, labels in teaching.makes.items()}
    widths = {path: counted(len(labels), "channel") for path, labels in teaching.makes.items()}
    changes = tuple((path, f"{len(indices)} of {widths[path]}") for path, indices in taken.items())
    return InPlaceReport(f"{student.name}: weights of {teacher.name}", changes, value=taken)


def _weights(call: Call) -> list[keras.Variable]:
    return call.op.weights if isinstance(call.op, keras.layers.Layer) else []


def _same_calls(taught: Graph, teaching: Graph) -> None:
    for mine, theirs in zip(taught.calls, teaching.calls, strict=False):
        if type(mine.op) is not type(theirs.op):
            raise ModelError(
                f"The models differ: `{mine.path}` of the student is a {type(mine.op).__name__}, `{theirs.path}` of "
                f"the teacher, in its place, a {type(theirs.op).__name__}. Only numbers of channels may differ."
            )
    if len(taught.calls) != len(teaching.calls):
        raise ModelError(
            f"The models differ: the student has {len(taught.calls)} operations, the teacher {len(teaching.calls)}. "
            "Only numbers of channels may differ."
        )


def _signatures(graph: Graph) -> list[Signature]:
    """For each unit, every axis of a weight or a tensor that it is on, and its row in grouped layers' channels."""
    places: list[set[tuple]] = [set() for _ in range(graph.units.count)]
    for number, call in enumerate(graph.calls):
        weights = {id(v): i for i, v in enumerate(_weights(call))}
        axes = [
            (number, weights.get(id(slot.variable)), axis, along.labels)
            for slot in call.slots
            for axis, along in enumerate(slot.axes)
            if along is not None and along.labels is not None
        ]
        axes += [
            (number, -1 - place, axis, labels)
            for place, tensor in enumerate(call.outputs)
            for axis, labels in enumerate(tensor.axes)
            if labels is not None
        ]
        for *key, labels in axes:
            for unit in graph.units.of(labels).tolist():
                places[unit].add(tuple(key))
    for number, block in enumerate(graph.units.blocks):
        for row, units in enumerate(block.tolist()):
            for unit in units:
                places[unit].add((len(graph.calls), number, row))
    return [frozenset(found) for found in places]


def _chosen(taught: Graph, teaching: Graph, scores: np.ndarray) -> np.ndarray:
    """The teacher's units that stay, boolean: of each signature as many as the student has, the most important."""
    wanted = Counter(_signatures(taught)[1:])
    units: dict[Signature, list[int]] = {signature: [] for signature in wanted}
    for unit, signature in enumerate(_signatures(teaching)):
        if unit:
            units.setdefault(signature, []).append(unit)
    group_of = {unit: group for group in groups(teaching) for unit in group.units.tolist()}
    keep = np.ones(teaching.units.count, bool)
    for signature, own in units.items():
        count, group = wanted[signature], group_of.get(own[0]) if own else None
        name = group.name if group else _where(taught if own == [] else teaching, signature)
        if count > len(own):
            raise ModelError(
                f"The student has {count} channels around `{name}`, the teacher {len(own)} in their place: it cannot "
                "inherit more than there are. Make the student narrower there, or of the same architecture."
            )
        free = set(group.free.tolist()) if group else set()
        ranked = sorted((u for u in own if u in free), key=lambda u: (scores[u], -u))
        gone = len(own) - count
        if gone > len(ranked):
            reason = group.reason if group else "nothing can go there"
            raise ModelError(
                f"The student is {gone} channels narrower around `{name}` than the teacher, where {len(ranked)} can "
                f"go: {reason}."
            )
        keep[ranked[:gone]] = False
    return keep


def _where(graph: Graph, signature: Signature) -> str:
    first = min(signature)[0] if signature else len(graph.calls)
    return graph.calls[first].path if first < len(graph.calls) else graph.model.name
