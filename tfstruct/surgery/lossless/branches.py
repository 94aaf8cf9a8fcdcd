"""Inputs of joins that change nothing: a zero summand, a factor of one."""

import dataclasses

import numpy as np
from keras import layers

from tfstruct.graph import Call, Graph, in_order
from tfstruct.graph.configured import again
from tfstruct.graph.operation_traits import traits_of
from tfstruct.keras_internals.graph_nodes import mask_of
from tfstruct.surgery.lossless.removable import by_layer

# Of each kind of join: the value that leaves the others as they are, and what that is called.
_NEUTRAL = {
    "add": (0.0, "added zero"),
    "subtract": (0.0, "took away zero"),
    "multiply": (1.0, "multiplied by one"),
}


@dataclasses.dataclass(frozen=True)
class Branch:
    """A removed input of a join, with the layers that only this input needed.

    Attributes:
        join: the layer or operation that joined it.
        index: which of its inputs.
        why: what it did there.
    """

    join: str
    index: int
    why: str


def cut_branches(graph: Graph, values: dict[int, np.ndarray]) -> list[Branch]:
    """Records which input each join passes on in its place; returns the inputs that are removed."""
    seen = _observed(graph)
    cut = []
    for calls in by_layer(graph):
        joins = traits_of(calls[0].op).joins
        if joins not in _NEUTRAL:
            continue
        neutral, why = _NEUTRAL[joins]
        left_out = [set(_neutral_inputs(call, values, neutral)) for call in calls]
        spare = set.intersection(*left_out)
        if len({len(call.inputs) for call in calls}) > 1 or not spare:
            continue
        stays = [i for i in range(len(calls[0].inputs)) if i not in spare] or [0]
        gone = [i for i in range(len(calls[0].inputs)) if i not in stays]
        if not all(_same_kind(call, stays[0]) for call in calls) or (len(stays) > 1 and len(calls) > 1):
            continue
        for call in calls:
            call.rewrite = _passing(call, stays, any(id(x) in seen for x in call.node.outputs))
        cut += [Branch(calls[0].path, i, why) for i in gone]
    return cut


def _observed(graph: Graph) -> set[int]:
    """The output tensors of a model and of its nested models: their names are kept."""
    return {id(x) for body in graph.bodies.values() for x in body.functional.outputs}


def _neutral_inputs(call: Call, values, neutral: float) -> list[int]:
    if len(call.inputs) < 2 or len(call.inputs) != len(call.node.arguments.keras_tensors):
        return []
    found = []
    for i, tensor in enumerate(call.inputs):
        known = values.get(tensor.key)
        first = traits_of(call.op).joins == "subtract" and i == 0
        if known is not None and (known == neutral).all() and not first:
            found.append(i)
    return found


def _same_kind(call: Call, i: int) -> bool:
    """Whether an input can replace the result: same shape, dtype and mask."""
    (made,) = call.node.outputs
    given = call.node.arguments.keras_tensors[i]
    masked = [mask_of(x) is not None for x in (given, made)]
    return tuple(given.shape) == tuple(made.shape) and given.dtype == made.dtype and masked[0] == masked[1]


def _passing(call: Call, stays: list[int], named: bool):
    def rewrite(kept, *args, **kwargs):
        tensors = in_order(args, kwargs)
        left = [tensors[i] for i in stays]
        if len(left) > 1:
            return again(call.op)(left)
        return layers.Identity(name=call.op.name, dtype=left[0].dtype)(left[0]) if named else left[0]

    return rewrite
