"""Crafted `.tflite` files: refused before they are unpacked, and by one kind of error."""

import flatbuffers
import numpy as np
import pytest
import zoo
from ai_edge_litert import schema_py_generated as schema

from tfstruct import Recipe
from tfstruct.convert import describe, file_bounds, flatbuffer
from tfstruct.convert.tflite import Converter
from tfstruct.errors import ConversionError


def vector(b, count, item, prepend):
    b.StartVector(4, count, 4)
    for _ in range(count):
        prepend(item)
    return b.EndVector()


def tables(b, count, item):
    return vector(b, count, item, b.PrependUOffsetTRelative)


def finished(b, graphs) -> bytes:
    schema.ModelStart(b)
    schema.ModelAddSubgraphs(b, graphs)
    b.Finish(schema.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def operators(b, n):
    """n subgraphs, one in truth, with n operators, one in truth, with n inputs each."""
    inputs = vector(b, n, 0, b.PrependInt32)
    schema.OperatorStart(b)
    schema.OperatorAddInputs(b, inputs)
    many = tables(b, n, schema.OperatorEnd(b))
    schema.SubGraphStart(b)
    schema.SubGraphAddOperators(b, many)
    return tables(b, n, schema.SubGraphEnd(b))


def options(b, n):
    """n operators that share the options with a shape of n numbers."""
    shape = vector(b, n, 1, b.PrependInt32)
    schema.ReshapeOptionsStart(b)
    schema.ReshapeOptionsAddNewShape(b, shape)
    inner = schema.ReshapeOptionsEnd(b)
    schema.OperatorStart(b)
    schema.OperatorAddBuiltinOptionsType(b, schema.BuiltinOptions.ReshapeOptions)
    schema.OperatorAddBuiltinOptions(b, inner)
    many = tables(b, n, schema.OperatorEnd(b))
    schema.SubGraphStart(b)
    schema.SubGraphAddOperators(b, many)
    return tables(b, n, schema.SubGraphEnd(b))


def sparsity(b, n):
    """n tensors that share a quantization and a sparsity with n dimensions each."""
    schema.DimensionMetadataStart(b)
    dimensions = tables(b, n, schema.DimensionMetadataEnd(b))
    schema.SparsityParametersStart(b)
    schema.SparsityParametersAddDimMetadata(b, dimensions)
    sparse = schema.SparsityParametersEnd(b)
    schema.TensorStart(b)
    schema.TensorAddSparsity(b, sparse)
    many = tables(b, n, schema.TensorEnd(b))
    schema.SubGraphStart(b)
    schema.SubGraphAddTensors(b, many)
    return tables(b, n, schema.SubGraphEnd(b))


def names(b, n):
    """n tensors with one name of 4 n bytes."""
    name = b.CreateString("x" * 4 * n)
    schema.TensorStart(b)
    schema.TensorAddName(b, name)
    many = tables(b, n, schema.TensorEnd(b))
    schema.SubGraphStart(b)
    schema.SubGraphAddTensors(b, many)
    return tables(b, n, schema.SubGraphEnd(b))


@pytest.mark.parametrize("shared", [operators, options, sparsity, names])
def test_one_table_for_many_is_refused(shared, monkeypatch):
    monkeypatch.setattr(  # nothing of it may be unpacked
        flatbuffer.flatbuffer_utils, "read_model_from_bytearray", lambda content: pytest.fail("was unpacked")
    )
    for count in (400, 10_000):
        b = flatbuffers.Builder(1024)
        content = finished(b, shared(b, count))
        assert len(content) < 20 * count
        with pytest.raises(ConversionError, match="far more objects in memory than any model of its size"):
            flatbuffer.read(content)


def test_shared_vectors_of_honest_files_are_read(file):
    """Zero points of a hundred tensors in one vector."""
    model = flatbuffer.read(file)
    tensor = model.subgraphs[0].tensors[0]
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = np.ones(64, np.float32), np.zeros(64, np.int64)
    model.subgraphs[0].tensors += [tensor] * 100
    content = flatbuffer.write(model)
    assert len(flatbuffer.read(content).subgraphs[0].tensors) > 100


@pytest.fixture(scope="module")
def file(process):
    with Converter(zoo.build("residual"), process=process) as converter:
        return converter.convert(Recipe(precision="float32")).content


def test_counting_is_exact_enough(file):
    counted = file_bounds._Count(file).table(schema.Model.GetRootAs(file, 0), 0)
    model = flatbuffer.read(file)
    graph = model.subgraphs[0]
    assert counted[0] > len(graph.tensors) + len(graph.operators) + len(model.buffers)
    assert counted[2] == sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)


def test_a_file_is_counted_once_and_a_refused_one_every_time(file, monkeypatch):
    counted = []

    class Count(file_bounds._Count):
        def __init__(self, content):
            super().__init__(content)
            counted.append(len(content))

    monkeypatch.setattr(file_bounds, "_Count", Count)
    b = flatbuffers.Builder(0)
    bomb = finished(b, operators(b, 2000))
    content = file + b"0"  # no file that was read before
    for _ in range(2):
        flatbuffer.read(content)
        with pytest.raises(ConversionError, match=r"far more objects|overlap"):
            flatbuffer.read(bomb)
    assert counted == [len(content), len(bomb), len(bomb)]


def wrong_tensor(model):
    model.subgraphs[0].operators[0].inputs = [9999]


def wrong_code(model):
    model.subgraphs[0].operators[0].opcodeIndex = 99


def wrong_buffer(model):
    model.subgraphs[0].tensors[0].buffer = 9999


def wrong_output(model):
    model.subgraphs[0].outputs = [-1]


def wrong_kind(model):
    model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = 120
    model.operatorCodes[0].builtinCode = 30_000


def wrong_name(model):
    model.subgraphs[0].tensors[0].name = b"\xff\xfe"


def wrong_signature(model):
    model.signatureDefs[0].subgraphIndex = 7


@pytest.mark.parametrize(
    "change", [wrong_tensor, wrong_code, wrong_buffer, wrong_output, wrong_kind, wrong_name, wrong_signature]
)
def test_what_names_nothing_is_refused(file, change):
    model = flatbuffer.read(file)
    change(model)
    with pytest.raises(ConversionError, match=r"The \.tflite file is damaged"):
        flatbuffer.read(flatbuffer.write(model))


def test_left_out_fields_are_empty(file):
    model = flatbuffer.read(file)
    model.subgraphs[0].operators[0].inputs = model.subgraphs[0].tensors[0].name = None
    again = flatbuffer.read(flatbuffer.write(model))
    assert again.subgraphs[0].operators[0].inputs == [] and again.subgraphs[0].tensors[0].name == b""
    flatbuffer.operators(again)


def test_an_input_without_a_shape_is_described(file):
    model = flatbuffer.read(file)
    tensor = model.subgraphs[0].tensors[int(model.subgraphs[0].inputs[0])]
    tensor.shape = tensor.shapeSignature = None
    assert describe(flatbuffer.write(model)).inputs[0].shape == ()


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_constants_are_of_their_shape(precision, process):
    recipe = Recipe(precision=precision, calibration=np.zeros((4, 10, 10, 3), "float32"))
    with Converter(zoo.build("residual"), process=process) as converter:
        model = flatbuffer.read(converter.convert(recipe).content)
    constants = [t for t in model.subgraphs[0].tensors if flatbuffer.is_constant(model, t)]
    kernel = next(t for t in constants if flatbuffer.dtype_name(t) == precision and len(t.shape) > 1)
    right = list(map(int, kernel.shape))
    for shape in ([3 * right[0], *right[1:]], [right[0] - 1, *right[1:]], [-1, *right[1:]], None):
        kernel.shape = shape
        with pytest.raises(ConversionError, match=r"damaged .tflite file: b'.*' of shape"):
            describe(flatbuffer.write(model))
    kernel.shape = right
    data = model.buffers[kernel.buffer].data
    model.buffers[kernel.buffer].data = data[: len(data) // 2 - 1]
    with pytest.raises(ConversionError, match=r"damaged .tflite file"):
        describe(flatbuffer.write(model))


def test_mutated_files_are_read_or_refused(file):
    rng = np.random.default_rng(0)
    refused = 0
    header = np.frombuffer(file, np.uint8).copy()
    for _ in range(150):
        content = header.copy()
        places = rng.integers(8, len(content), rng.integers(1, 20))
        content[places] = rng.integers(0, 256, len(places))
        try:
            flatbuffer.operators(flatbuffer.read(content.tobytes()))
        except ConversionError:
            refused += 1
    assert refused
