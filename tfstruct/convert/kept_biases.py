"""Biases that stay with their own layer: the converter would move them on into the next one's.

Of y = x W + b and z = y V + c it makes, if it comes to them in that order, y' = x W and z = y' V + (b V + c). No layer
makes y', whose range is another one than that of y, and a twin rounds y. So for the length of the conversion a
MAXIMUM with the least number stands between the two. So does it between y and a sum with a constant of other sizes, as
positions are: of y + p the converter makes x W + (b + p).
"""

import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from tfstruct.convert import flatbuffer
from tfstruct.keras_internals.tensorflow import read_instead

_PRODUCTS = {"MatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"}
_CONVOLUTIONS = {"Conv2D", "DepthwiseConv2dNative", "Conv3D"}
_SUMS = {"Add", "AddV2", "BiasAdd"}
_BEHIND = {"Mul", "RealDiv", "Identity", "Squeeze", *_SUMS}
_MARK = "tfstruct_kept_bias"


def mark(graph: tf.Graph) -> None:
    """Sets a product with a constant, or a sum with one that is not by channel, apart from sums that are part of
    another such product.

    Args:
        graph: in which operations are still being added.
    """
    marks = _Marks(graph)
    for product in graph.get_operations():
        place = marks.varying(product) if product.type in _PRODUCTS | _SUMS else None
        if place is None:
            continue
        if product.type in _SUMS:
            x, constant = product.inputs[place], product.inputs[1 - place]
            if x.dtype.is_floating and not _by_last_axis(constant, x) and marks.is_biased(x):
                marks.add(product, place)
            continue
        reader, before = product, product.inputs[place].op
        if _is_view_in(before, product):
            reader, place = before, 0
        if reader.inputs[place].dtype.is_floating and marks.is_biased(reader.inputs[place]):
            marks.add(reader, place)


class _Marks:
    """What of a graph its inputs reach: all else is a constant of the file."""

    def __init__(self, graph: tf.Graph):
        self._graph = graph
        self._reached: set[str] = set()
        for op in graph.get_operations():
            is_input = op.type == "Placeholder" and op.outputs[0].dtype != tf.resource
            if is_input or any(x.op.name in self._reached for x in op.inputs):
                self._reached.add(op.name)

    def add(self, reader: tf.Operation, place: int) -> None:
        x = reader.inputs[place]
        with self._graph.as_default(), self._graph.control_dependencies(None), tf.name_scope(""):
            read_instead(reader, place, y := tf.maximum(x, x.dtype.min, name=_MARK))
        self._reached.add(y.op.name)

    def varying(self, op: tf.Operation) -> int | None:
        """The place of the only operand that is no constant."""
        places = [i for i, x in enumerate(op.inputs) if x.op.name in self._reached]
        return places[0] if len(places) == 1 else None

    def is_biased(self, x: tf.Tensor) -> bool:
        """Whether a tensor is a product with a constant, factors, and at least one sum behind it."""
        biased = False
        while x.op.type in _BEHIND:
            place = self.varying(x.op)
            if place is None or any(not _by_channel(one, x) for i, one in enumerate(x.op.inputs) if i != place):
                return False
            biased |= x.op.type in _SUMS
            x = x.op.inputs[place]
        if x.op.type == "Reshape" and _is_view_in(x.op, x.op.inputs[0].op):
            x = x.op.inputs[0]
        return biased and x.op.type in _PRODUCTS | _CONVOLUTIONS and self.varying(x.op) is not None


def _is_view_in(op: tf.Operation, product: tf.Operation) -> bool:
    """Whether an operation is a Reshape in the same layer as a product: in its scope, or in that around it."""
    scope = product.name.rpartition("/")[0]
    return op.type == "Reshape" and (op.name == scope or op.name.startswith(f"{scope}/"))


def _by_channel(constant: tf.Tensor, x: tf.Tensor) -> bool:
    """Whether a constant has one value, one for each channel, or one for each channel of each head."""
    if constant.shape.rank is None or x.shape.rank is None:
        return False
    shape, made = constant.shape.as_list(), x.shape.as_list()
    return _by_last_axis(constant, x) or (bool(shape) and shape == made[-len(shape) :])


def _by_last_axis(constant: tf.Tensor, x: tf.Tensor) -> bool:
    """Whether a constant has one value, or one for each place of the last axis."""
    if constant.shape.rank is None or x.shape.rank is None:
        return True
    size, shape, made = constant.shape.num_elements(), constant.shape.as_list(), x.shape.as_list()
    return size == 1 or (bool(shape) and size == shape[-1] == made[-1])


def unmark(model: schema.ModelT) -> None:
    """Takes out of a file what `mark` has put in."""
    for graph in model.subgraphs:
        instead: dict[int, int] = {}
        for operator in graph.operators:
            operator.inputs = [instead.get(int(i), int(i)) for i in operator.inputs]
            name = graph.tensors[operator.outputs[0]].name.decode() if len(operator.outputs) else ""
            if flatbuffer.operator_name(model, operator) == "MAXIMUM" and _MARK in name:
                instead[int(operator.outputs[0])] = operator.inputs[0]
        graph.operators = [op for op in graph.operators if not {int(i) for i in op.outputs} & instead.keys()]
