"""An operator with what rules of devices ask of it: types, shapes, constants, options."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.flatbuffer import Operator


@dataclasses.dataclass(frozen=True)
class Reading:
    """One operator of a file, read for a rule.

    Attributes:
        name: TensorFlow Lite's.
        options: its options in the file; None where it has none.
        dtypes: of all inputs; "" for one that is left out.
        dtypes_in: of the inputs that are no constants.
        dtypes_out: of the outputs.
        shapes_in: of all inputs that are there.
        shapes_out: of the outputs.
        shapes_moving: of the tensors that are no constants, outputs included.
        variables: how many inputs are no constants.
        is_open: whether a tensor that it reads or makes has an open size.
        constants: by input, its values; None where it is no constant.
    """

    name: str
    options: Any
    dtypes: tuple[str, ...]
    dtypes_in: tuple[str, ...]
    dtypes_out: tuple[str, ...]
    shapes_in: tuple[tuple[int, ...], ...]
    shapes_out: tuple[tuple[int, ...], ...]
    shapes_moving: tuple[tuple[int, ...], ...]
    variables: int
    is_open: bool
    constants: Callable[[int], np.ndarray | None]

    def constant(self, place: int) -> np.ndarray | None:
        """The values of an input, None if it is no constant."""
        return self.constants(place)

    def option(self, name: str, default: int | float = 0):
        """An option of the operator; the schema's default where the file has none."""
        return getattr(self.options, name, default)


def read_operator(model, op: Operator) -> Reading:
    """One operator of a file.

    Args:
        model: from `flatbuffer.read`.
        op: one of its operators.
    """
    graph = model.subgraphs[op.subgraph]
    operator = graph.operators[op.index]
    inputs = [graph.tensors[i] if i >= 0 else None for i in operator.inputs]
    there = [tensor for tensor in inputs if tensor is not None]
    outputs = [graph.tensors[i] for i in operator.outputs if i >= 0]
    moving = [tensor for tensor in there if not flatbuffer.is_constant(model, tensor)]

    def constant(place: int) -> np.ndarray | None:
        tensor = inputs[place] if place < len(inputs) else None
        if tensor is None or not flatbuffer.is_constant(model, tensor):
            return None
        return flatbuffer.constant(model, tensor, np.dtype(flatbuffer.dtype_name(tensor)))

    def dtypes(tensors) -> tuple[str, ...]:
        return tuple(flatbuffer.dtype_name(tensor) if tensor is not None else "" for tensor in tensors)

    return Reading(
        name=op.name,
        options=operator.builtinOptions,
        dtypes=dtypes(inputs),
        dtypes_in=dtypes(moving),
        dtypes_out=dtypes(outputs),
        shapes_in=tuple(sizes(tensor.shape) for tensor in there),
        shapes_out=tuple(sizes(tensor.shape) for tensor in outputs),
        shapes_moving=tuple(sizes(tensor.shape) for tensor in (*moving, *outputs)),
        variables=len(moving),
        is_open=any(d < 0 for tensor in (*moving, *outputs) for d in sizes(tensor.shapeSignature)),
        constants=constant,
    )


def sizes(values) -> tuple[int, ...]:
    """A shape of a file, which may have none."""
    return () if values is None else tuple(int(v) for v in values)


def held_against(
    content: bytes, found: Sequence[Operator], rule: Callable[[Reading], tuple[bool | None, str]]
) -> list[tuple[bool | None, str]]:
    """The answers of a rule to every operator of a file."""
    model = flatbuffer.read(content)
    answers: list[tuple[bool | None, str]] = []
    for op in found:
        try:
            answers.append(rule(read_operator(model, op)))
        except (IndexError, ValueError, TypeError, ZeroDivisionError):
            # A file may hold what no converter writes: too few inputs, a scalar where an image is meant.
            answers.append((None, "its inputs in the file are not those that the operator has"))
    return answers
