"""What the tables of a `.tflite` file take that describe an operator and its tensors, besides weights and scales."""

import copy
from collections.abc import Mapping

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.file_writing import SharingBuilder
from tfstruct.tflite_operators import traits_of

_PLACE = 4  # bytes of a table's place in the list of its kind
_SMALL = 64  # bytes of a constant that is no weight: a shape, an axis
_PADDING = 8  # bytes by which a constant is aligned, on average
_ROOM = 1 << 16


def bytes_by_operator(content: bytes, layers: Mapping[str, tuple[str, ...]]) -> list[tuple[flatbuffer.Operator, int]]:
    """Every operator of the main graph with the bytes of its own table, of the tensors that it makes, and of the
    constants that it is the first to read: names, shapes, a scale; of weights neither values nor scales a channel.

    Args:
        content: the file.
        layers: tensor -> Keras layers, as `TFLiteModel.layers`.

    Example:
        >>> from tfstruct.convert.draft import draft
        >>> from tfstruct.convert.table_bytes import bytes_by_operator
        >>> operator, size = bytes_by_operator(*draft(model))[0]
        >>> operator.name, 100 < size < 1000
        ('FULLY_CONNECTED', True)
    """
    model = flatbuffer.read(content)
    graph, seen, found = model.subgraphs[0], set(map(int, model.subgraphs[0].inputs)), []
    # As the file is written: forms of tables once, and equal shapes and zero points once.
    builder = SharingBuilder(_ROOM)

    def packed(table) -> int:
        before = builder.Offset()
        table.Pack(builder)
        return builder.Offset() - before

    for number in seen:
        packed(graph.tensors[number])
    for op in flatbuffer.operators(model, layers):
        if op.subgraph:
            continue
        operator, traits = graph.operators[op.index], traits_of(op.name)
        size = packed(operator) + _PLACE
        for place, number in enumerate([*operator.inputs, *operator.outputs]):
            if number < 0 or int(number) in seen:
                continue
            seen.add(int(number))
            tensor = graph.tensors[number]
            size += packed(_without_channels(tensor)) + _PLACE
            if flatbuffer.is_constant(model, tensor):
                size += packed(type(model.buffers[0])()) + _PLACE + _PADDING
                data = model.buffers[tensor.buffer].data
                if place not in (traits.kernel, traits.bias) and data is not None and len(data) <= _SMALL:
                    size += len(data)
        found.append((op, size))
    return found


def _without_channels(tensor):
    """A tensor with one scale and zero point at most."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) < 2:
        return tensor
    tensor, tensor.quantization = copy.copy(tensor), copy.copy(quantization)
    tensor.quantization.scale = np.asarray(quantization.scale[:1])
    tensor.quantization.zeroPoint = None
    return tensor
