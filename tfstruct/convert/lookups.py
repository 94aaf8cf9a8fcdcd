"""Tables of embeddings in files whose weights alone are integers.

A GATHER of integer rows would make integers of one scale. EMBEDDING_LOOKUP has a scale for each row and makes floats,
but takes indices as a list only: they are reshaped before it, and what it makes behind it.
"""

from collections.abc import Mapping

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.file_writing import write_behind
from tfstruct.convert.flatbuffer import schema
from tfstruct.convert.recipe import Recipe
from tfstruct.precisions import PRECISIONS

Layers = Mapping[str, tuple[str, ...]]


def by_rows(content: bytes, layers: Layers, recipe: Recipe) -> tuple[bytes, Layers, list[str]]:
    """Puts EMBEDDING_LOOKUP in place of each GATHER of rows of a constant table, where weights alone get integers.

    Args:
        content: float `.tflite`.
        layers: tensor -> Keras layers.

    Returns:
        The file, still in float, `layers` with its new tensors, and the changes in words.
    """
    if not any(_rounds_tables(recipe, precision) for precision in (recipe.precision, *recipe.layers.values())):
        return content, layers, []
    model = flatbuffer.read(content)
    found: dict[str, tuple[str, ...]] = {}
    changes = []
    for graph in model.subgraphs[:1]:  # those of loops stay float
        operators = []
        for op in graph.operators:
            result = graph.tensors[op.outputs[0]]
            own = layers.get(result.name.decode(), ())
            if _rounds_tables(recipe, recipe.precision_of(own)) and _gathers_rows(model, graph, op):
                operators += _lookup(model, graph, op)
                found[(result.name + b"/rows").decode()] = own
                changes.append(f"{', '.join(own) or result.name.decode()}: EMBEDDING_LOOKUP in place of GATHER")
            else:
                operators.append(op)
        graph.operators = operators
    return (write_behind(model), {**layers, **found}, changes) if found else (content, layers, [])


def _rounds_tables(recipe: Recipe, precision: str) -> bool:
    return PRECISIONS[precision].weight_bits in (4, 8) and not recipe.has_integers(precision)


def _gathers_rows(model, graph, op) -> bool:
    """Whether an operator gathers whole rows of a constant float table."""
    if flatbuffer.operator_name(model, op) != "GATHER" or op.builtinOptions.axis or op.builtinOptions.batchDims:
        return False
    table, indices, result = (graph.tensors[i] for i in (*op.inputs, op.outputs[0]))
    open_sizes = sum(size < 0 for size in flatbuffer.shape_signature(result))
    return (
        flatbuffer.is_constant(model, table)
        and (table.type, indices.type) == (schema.TensorType.FLOAT32, schema.TensorType.INT32)
        and len(table.shape) == 2
        and open_sizes < 2  # a reshape can leave one open
    )


def _lookup(model, graph, op) -> list[schema.OperatorT]:
    """Indices as a list, their rows, and these in the shape of the indices."""
    table, indices = map(int, op.inputs)
    result = graph.tensors[op.outputs[0]]
    count, width = int(np.prod(result.shape[:-1])), int(result.shape[-1])
    flat = flatbuffer.add_tensor(graph, [count], result.name + b"/indices", schema.TensorType.INT32)
    rows = flatbuffer.add_tensor(graph, [count, width], result.name + b"/rows", result.type)
    return [
        _reshape(model, graph, indices, flat, [-1]),
        flatbuffer.new_operator(
            model, "EMBEDDING_LOOKUP", [flat, table], [rows], schema.BuiltinOptions.NONE, None
        ),
        _reshape(model, graph, rows, int(op.outputs[0]), flatbuffer.shape_signature(result)),
    ]  # fmt: skip


def _reshape(model, graph, source: int, result: int, shape: list[int]) -> schema.OperatorT:
    name = graph.tensors[result].name + b"/shape"
    wanted = flatbuffer.add_constant(model, graph, np.array(shape, np.int32), name, schema.TensorType.INT32)
    options = schema.ReshapeOptionsT()
    options.newShape = list(shape)
    return flatbuffer.new_operator(
        model, "RESHAPE", [source, wanted], [result], schema.BuiltinOptions.ReshapeOptions, options
    )
