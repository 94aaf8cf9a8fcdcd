"""How files are written: equal vectors once, constants aligned, the same function."""

import keras
import numpy as np
import pytest
import zoo
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

import tfstruct
from tfstruct import Recipe
from tfstruct.convert import flatbuffer
from tfstruct.convert.file_writing import write_behind
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.tflite import Converter
from tfstruct.errors import ConversionError


@pytest.fixture(scope="module")
def file(process):
    model = zoo.build("residual")
    x = zoo.sample_inputs(model, 32)
    with Converter(model, process=process) as converter:
        return converter.convert(Recipe(precision="int8", calibration=x)), x


def _starts(content: bytes) -> list[int]:
    """Where the contents of buffers begin."""
    model = schema.Model.GetRootAs(content, 0)
    tables = [model.Buffers(i)._tab for i in range(model.BuffersLength())]
    return [table.Vector(table.Offset(4)) for table in tables if table.Offset(4)]


def test_constants_are_aligned(file):
    made, _ = file
    assert len(_starts(made.content)) > 5
    assert not any(start % 16 for start in _starts(made.content))


def test_equal_vectors_are_written_once(file):
    made, x = file
    model = flatbuffer.read(made.content)
    plain = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    stored = [t.quantization for t in model.subgraphs[0].tensors if t.quantization is not None]
    channels = sum(len(q.zeroPoint) for q in stored if q.zeroPoint is not None and len(q.zeroPoint) > 1)
    # Of zero points, 8 bytes each, a layer's kernel and bias share theirs.
    assert len(made.content) < len(plain) - 8 * channels / 2
    assert flatbuffer.compact(plain) == made.content == flatbuffer.compact(made.content)
    runtimes = [Runtime(content) for content in (plain, made.content)]
    first, second = (runtime.run_all({runtime.inputs[0].name: x}) for runtime in runtimes)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_what_is_read_is_what_was_written(file):
    made, _ = file
    before = flatbuffer.read(made.content)
    bias = next(t for t in before.subgraphs[0].tensors if t.name.endswith(b"bias"))
    flatbuffer.set_constant(before, bias, np.arange(bias.shape[0], dtype=np.int32))
    after = flatbuffer.read(flatbuffer.write(before))
    again = next(t for t in after.subgraphs[0].tensors if t.name == bias.name)
    np.testing.assert_array_equal(flatbuffer.constant(after, again, np.int32), np.arange(bias.shape[0]))
    for old, new in zip(before.subgraphs[0].tensors, after.subgraphs[0].tensors, strict=True):
        assert old.name == new.name and (old.quantization is None) == (new.quantization is None)
        if old.quantization is not None:
            np.testing.assert_array_equal(old.quantization.scale, new.quantization.scale)
            np.testing.assert_array_equal(old.quantization.zeroPoint, new.quantization.zeroPoint)


def test_other_bytes_are_refused():
    with pytest.raises(ConversionError, match="TFL3"):
        flatbuffer.read(keras.Sequential([]).name.encode() * 8)


def test_weights_behind_the_tables_are_arrays():
    """As TensorFlow and litert-quantizer write large files, and we between two steps; bytes would be packed one at a
    time."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(1000), keras.layers.Dense(300)])
    plain = tfstruct.to_tflite(model, check_range=False).content
    parsed = flatbuffer.read(plain)
    content = write_behind(parsed)
    assert flatbuffer.compact(content) == plain == flatbuffer.write(parsed)  # nothing is left of it in what is parsed
    root = schema.Model.GetRootAs(content, 0)
    places = [root.Buffers(i).Offset() for i in range(root.BuffersLength()) if root.Buffers(i).Offset()]
    assert len(places) == 2
    assert not any(place % 16 for place in places)
    buffers = [buffer.data for buffer in flatbuffer.read(content).buffers if buffer.data is not None]
    assert sum(len(data) for data in buffers) > 2_400_000
    assert all(type(data) is np.ndarray for data in buffers)
    x = np.random.default_rng(0).normal(size=(4, 300)).astype("float32")
    made = [Runtime(c).run_all({Runtime(c).inputs[0].name: x}) for c in (content, plain)]
    for name, values in made[0].items():
        np.testing.assert_array_equal(values, made[1][name])


def test_equal_weights_are_behind_the_tables_once():
    kernel = keras.initializers.RandomNormal(seed=1)
    same = [keras.layers.Dense(200, kernel_initializer=kernel, name=f"same_{i}") for i in range(3)]
    other = keras.layers.Dense(200, kernel_initializer=keras.initializers.RandomNormal(seed=2))
    plain = tfstruct.to_tflite(keras.Sequential([keras.Input((200,)), *same, other]), check_range=False).content
    assert 2 * 160_000 < len(write_behind(flatbuffer.read(plain))) < 2.2 * 160_000


def test_a_conversion_parses_its_files_few_times(process, monkeypatch):
    """Each file as often as it is changed, and a few times more: for a large one that takes a tenth of a second."""
    reads = []
    read = flatbuffer.read
    monkeypatch.setattr(flatbuffer, "read", lambda content: reads.append(len(content)) or read(content))
    with Converter(zoo.build("residual"), process=process) as converter:
        converter.convert(Recipe("dynamic", measure_latency=False))
    assert len(reads) < 10  # 20 before
