"""`inherit`: the most important channels of a wide model, copied into a narrower one."""

from collections import Counter
from collections.abc import Callable

import keras
import numpy as np

from tfstruct.analyze import unit_scores
from tfstruct.errors import ModelError
from tfstruct.graph import Call, Graph, groups, rebuild, trace
from tfstruct.graph.blocks import atoms

# Where a unit's channels are found: places of weights' and tensors' axes, the same in both models.
Signature = frozenset[tuple]


def inherit(
    student: keras.Model, teacher: keras.Model, criterion: str | Callable = "l2", *, data=None, loss=None, seed: int = 0
) -> dict[str, list[int]]:
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
        By path of the teacher's layer, the indices of its output channels that the student has now.

    Raises:
        ModelError: the models differ in more than widths, the student is wider somewhere, or a layer is narrower whose
            channels all have to stay. The student is left as it was.
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
    return {path: np.flatnonzero(stays[labels]).tolist() for path, labels in teaching.makes.items()}


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
    """For each unit, every axis of a weight or a tensor that it is on."""
    places: list[set[tuple]] = [set() for _ in range(graph.units.count)]
    for number, call in enumerate(graph.calls):
        weights = {id(v): i for i, v in enumerate(_weights(call))}
        axes = [
            (number, weights.get(id(slot.variable)), axis, along.labels)
            for slot in call.slots
            for axis, along in enumerate(slot.axes)
            if along is not None
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
    return [frozenset(found) for found in places]


def _chosen(taught: Graph, teaching: Graph, scores: np.ndarray) -> np.ndarray:
    """The teacher's units that stay, boolean: of each signature as many as the student has."""
    signatures = _signatures(teaching)
    wanted, here = Counter(_signatures(taught)[1:]), Counter(signatures[1:])
    makers = {unit: group.name for group in groups(teaching) for unit in group.units.tolist()}
    named = {signatures[unit]: name for unit, name in makers.items()}
    for signature in set(wanted) | set(here):
        if wanted[signature] > here[signature]:
            where = named.get(signature) or _where(taught, signature)
            raise ModelError(
                f"The student has {wanted[signature]} channels around `{where}`, the teacher {here[signature]}: it "
                "cannot inherit more than there are. Make the student narrower there, or of the same architecture."
            )
    surplus = {signature: here[signature] - wanted[signature] for signature in here}
    keep = np.ones(teaching.units.count, bool)
    for group in groups(teaching):
        for atom in atoms(group.free, group.blocks, scores):
            need = Counter(signatures[unit] for unit in atom)
            if all(surplus[signature] >= count for signature, count in need.items()):
                keep[atom] = False
                for signature, count in need.items():
                    surplus[signature] -= count
        left = {signatures[unit]: surplus[signatures[unit]] for unit in group.units.tolist()}
        if any(left.values()):
            raise ModelError(
                f"The student is {sum(left.values())} channels narrower at `{group.name}` than the teacher can be"
                f"{f': {group.reason}' if group.reason else ', as blocks of channels have to stay equal'}."
            )
    return keep


def _where(graph: Graph, signature: Signature) -> str:
    return graph.calls[min(signature)[0]].path if signature else graph.model.name
