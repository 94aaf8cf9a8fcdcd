"""Reshape, transpose, reshape back: a permutation of channels, seen as one operation.

Followed one by one, the split into (groups, channels of a group) would tie whole rows and columns of channels
together. As a permutation it ties nothing; what stays is permuted by a gather where a reshape no longer can.
"""

import types
from collections.abc import Container

import keras
import numpy as np

from tfstruct.graph.call import Axes, Call, followed
from tfstruct.graph.operation_traits import add_row
from tfstruct.graph.rules import rule
from tfstruct.graph.traits import Traits
from tfstruct.keras_internals.operation_types import operation

_Reshape = operation("Reshape")
_RESHAPES = (keras.layers.Reshape, _Reshape)


class Shuffle(keras.Operation):
    """The permutation of one axis that three operations make together."""

    def __init__(self, steps, axis: int, sizes: tuple[int, ...], order: tuple[int, ...]):
        super().__init__(name=steps[-1].name)
        self.steps, self.axis, self.sizes, self.order = steps, axis, sizes, order

    def call(self, x):
        for step in self.steps:
            x = step(x)
        return x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    @property
    def permutation(self) -> np.ndarray:
        """For each place after it, the place before."""
        return np.arange(np.prod(self.sizes)).reshape(self.sizes).transpose(self.order).ravel()


add_row([Shuffle], Traits(moves="order", keeps_zero=True, homogeneous=True))


@rule(Shuffle)
def shuffle(call: Call) -> Axes:
    op, axis, before = call.op, call.op.axis, call.input.axes
    labels = before[axis]

    def rewrite(kept, x):
        if labels is None or len(kept(labels)) == len(labels):
            return _again(op, x, op.sizes)
        stays = np.zeros(len(labels), bool)
        stays[kept(labels)] = True
        smaller = _rectangle(stays.reshape(op.sizes)) if len(kept(labels)) < len(labels) else None
        if smaller is not None:
            return _again(op, x, smaller)
        return keras.ops.take(x, followed(kept, labels, op.permutation).tolist(), axis=axis)

    call.rewrite = rewrite
    after = None if labels is None else labels[op.permutation]
    return (*before[:axis], after, *before[axis + 1 :])


def _rectangle(stays: np.ndarray) -> tuple[int, ...] | None:
    """The sizes of what stays, if it is whole rows and columns; otherwise None."""
    rank = stays.ndim
    along = [stays.any(axis=tuple(k for k in range(rank) if k != i)) for i in range(rank)]
    outer = np.ones(stays.shape, bool)
    for i, kept in enumerate(along):
        outer &= kept.reshape([-1 if k == i else 1 for k in range(rank)])
    return tuple(int(kept.sum()) for kept in along) if (outer == stays).all() else None


def _again(op: Shuffle, x, sizes):
    """The same three operations, names kept, on other sizes."""
    first, second, third = op.steps
    shape = list(x.shape)
    split = [*shape[: op.axis], *sizes, *shape[op.axis + 1 :]]
    x = _reshape(first, split)(x)
    x = type(second).from_config(second.get_config())(x)
    return _reshape(third, shape)(x)


def _reshape(op, shape):
    known = [-1 if n is None else n for n in shape]
    if isinstance(op, keras.layers.Reshape):
        return keras.layers.Reshape(known[1:], name=op.name)
    return _Reshape(known, name=op.name)


def find(node, readers: dict[int, list], shared: Container[int]):
    """The shuffle that starts at this node, as a node of its own and the nodes it stands for; None if there is none.

    Args:
        readers: id of a tensor -> the nodes that read it; `None` among them for an output of the model.
        shared: ids of the operations that the model calls several times.
    """
    if not isinstance(node.operation, _RESHAPES):
        return None
    nodes = [node]
    for _ in range(2):
        following = readers.get(id(nodes[-1].outputs[0]), [])
        if len(following) != 1 or following[0] is None or len(following[0].input_tensors) != 1:
            return None
        nodes.append(following[0])
    if not isinstance(nodes[2].operation, _RESHAPES):
        return None
    if any(id(n.operation) in shared for n in nodes):
        return None  # a shared operation has one configuration for all its calls
    order = _order(nodes[1])
    before, split, after = (tuple(x.shape) for x in (node.input_tensors[0], node.outputs[0], nodes[2].outputs[0]))
    if order is None or after != before or len(split) <= len(before):
        return None
    spare = len(split) - len(before) + 1
    for axis in range(1, len(before)):
        sizes = split[axis : axis + spare]
        same = split[:axis] == before[:axis] and split[axis + spare :] == before[axis + 1 :]
        if not same or None in sizes or np.prod(sizes) != before[axis]:
            continue
        inner = order[axis : axis + spare]
        outside = [*order[:axis], *order[axis + spare :]]
        if outside == [*range(axis), *range(axis + spare, len(split))]:
            op = Shuffle([n.operation for n in nodes], axis, sizes, tuple(i - axis for i in inner))
            one = types.SimpleNamespace(
                operation=op, arguments=node.arguments, input_tensors=node.input_tensors, outputs=nodes[2].outputs
            )
            return one, nodes
    return None


def _order(node) -> list[int] | None:
    op, rank = node.operation, len(node.input_tensors[0].shape)
    if isinstance(op, keras.layers.Permute):
        return [0, *op.dims]
    if isinstance(op, operation("Transpose")):
        return [a % rank for a in op.axes] if op.axes is not None else None
    if isinstance(op, operation("Swapaxes")):
        order = list(range(rank))
        a, b = op.axis1 % rank, op.axis2 % rank
        order[a], order[b] = order[b], order[a]
        return order
    return None
