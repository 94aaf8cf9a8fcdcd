"""One operator of a `.tflite` file as a file of its own: to ask a runtime about it, or to time it."""

import copy

from ai_edge_litert import schema_py_generated as schema

from tfstruct.convert import flatbuffer
from tfstruct.tflite_operators import traits_of


def cut(model: schema.ModelT, subgraph: int, index: int) -> bytes | None:
    """The file with nothing but one operator; None for an operator that does not stand alone.

    Its constants stay constants, the other tensors it reads become inputs.

    Args:
        model: from `flatbuffer.read`; not changed.
        subgraph, index: the operator's place.
    """
    graph = model.subgraphs[subgraph]
    operator = graph.operators[index]
    if not traits_of(flatbuffer.operator_name(model, operator)).alone:
        return None
    places: dict[int, int] = {}
    buffers: list[schema.BufferT] = [schema.BufferT()]
    tensors: list[schema.TensorT] = []
    used = [int(i) for i in (*operator.inputs, *operator.outputs, *_intermediates(operator)) if i >= 0]
    for old in dict.fromkeys(used):
        tensor = copy.copy(graph.tensors[old])
        if flatbuffer.is_constant(model, tensor):
            buffers.append(model.buffers[tensor.buffer])
            tensor.buffer = len(buffers) - 1
        else:
            tensor.buffer = 0
        places[old] = len(tensors)
        tensors.append(tensor)

    def moved(indices):
        return [places[int(i)] if i >= 0 else -1 for i in indices]

    alone = copy.copy(operator)
    alone.opcodeIndex, alone.inputs, alone.outputs = 0, moved(operator.inputs), moved(operator.outputs)
    if _intermediates(operator):
        alone.intermediates = moved(operator.intermediates)
    out = schema.SubGraphT()
    out.name, out.tensors, out.operators, out.outputs = b"main", tensors, [alone], list(alone.outputs)
    out.inputs = [
        i
        for i in dict.fromkeys(alone.inputs)
        if i >= 0 and not tensors[i].isVariable and tensors[i].buffer == 0 and i not in alone.outputs
    ]
    whole = schema.ModelT()
    whole.version, whole.description = model.version, b"tfstruct: one operator"
    whole.operatorCodes, whole.subgraphs, whole.buffers = [model.operatorCodes[operator.opcodeIndex]], [out], buffers
    return flatbuffer.write(whole)


def _intermediates(operator) -> list[int]:
    found = operator.intermediates
    return [] if found is None else [int(i) for i in found]
