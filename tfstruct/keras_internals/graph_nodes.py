"""A functional model as calls of operations: Keras keeps one node for each call."""

from collections.abc import Sequence

import keras
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.ops.node import Node

__all__ = [
    "Functional", "Node", "calls_of", "copied_operation", "functional_inside", "inputs_and_masks",
    "is_made_like_functional", "made_by", "mask_of", "names_of", "nodes_in_order", "operation_of", "rename",
    "set_mask", "takes_training",
]  # fmt: skip


def nodes_in_order(functional: Functional) -> list[Node]:
    """The calls inside a functional model, each behind those whose results it reads; its inputs first."""
    return [
        node for depth in sorted(functional._nodes_by_depth, reverse=True) for node in functional._nodes_by_depth[depth]
    ]


def calls_of(op: keras.Operation) -> Sequence[Node]:
    """The calls of an operation on symbolic tensors, the earliest first, in this or another model."""
    return getattr(op, "_inbound_nodes", ())


def made_by(x: keras.KerasTensor) -> tuple[keras.Operation, Node, int]:
    """The operation that made a tensor, the call of it, and the place of the tensor among the results of the call."""
    op, number, index = x._keras_history
    return op, op._inbound_nodes[number], index


def operation_of(x: keras.KerasTensor) -> keras.Operation:
    """The operation that made a tensor; of an input of a model its `InputLayer`."""
    return x._keras_history.operation


def names_of(tensors: Sequence[keras.KerasTensor]) -> list[str]:
    """The names of the operations that made tensors: of the inputs of a model, the names by which a user knows them."""
    return [operation_of(x).name for x in tensors]


def rename(x: keras.KerasTensor, name: str) -> None:
    """Gives the operation that made a tensor another name."""
    operation_of(x).name = name


def functional_inside(model: keras.Model) -> Functional | None:
    """The functional model that a Sequential keeps of itself; None where it is not built."""
    return getattr(model, "_functional", None)


def is_made_like_functional(cls: type) -> bool:
    """Whether a subclass of `keras.Model` takes `inputs` and `outputs` as `keras.Model` does."""
    return functional_like_constructor(cls)


def inputs_and_masks(tensors: Sequence, functional: Functional) -> tuple[list, list]:
    """Of the tensors in a call of a nested model, those of its inputs, and the masks that Keras passes on with them."""
    count = len(functional.inputs)
    return list(tensors[:count]), list(tensors[count:])


def takes_training(op: keras.Operation) -> bool:
    """Whether the `call` of an operation has an argument `training`."""
    return getattr(op, "_call_has_training_arg", False)


def mask_of(x):
    """The mask that Keras hung on a tensor, such as that of an `Embedding` with `mask_zero`; None without one."""
    return getattr(x, "_keras_mask", None)


def set_mask(x, mask) -> None:
    """Hangs a mask on a tensor, for the layers that read it."""
    x._keras_mask = mask


def copied_operation(op: keras.Operation) -> keras.Operation:
    """An operation of the same type and attributes that has not been called, for one that no configuration tells.

    `keras.ops` with arguments that are no plain values, such as a shape of NumPy integers, are like that.
    """
    made = object.__new__(type(op))
    vars(made).update(vars(op), _inbound_nodes=[], _outbound_nodes=[])
    return made
