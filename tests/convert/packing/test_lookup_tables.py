"""Sizes by tflite-micro's scheme, and its own compressed files run by it."""

import keras
import numpy as np
import pytest

import tfstruct
from tfstruct import Recipe
from tfstruct.convert import Converter, compress_for_micro, flatbuffer, micro
from tfstruct.convert.packing import lookup_tables
from tfstruct.errors import ConversionError

needs_runtime = pytest.mark.skipif(micro.version() is None, reason="needs tflite-micro (tfstruct[micro])")


def test_sizes_by_hand():
    values = np.array([[1, 1, 2, 3], [5, 5, 5, 6]], np.int8)
    # 8 indices of 3 bits, 5 values; or 8 of 2 bits, two tables as long as the longer one.
    assert lookup_tables.table_bytes(values, None) == 3 + 16 + 5
    assert lookup_tables.table_bytes(values, 0) == 2 + 16 + 2 * 3
    assert lookup_tables.table_bytes(np.full((10,), 7, np.int16), None) == 2 + 16 + 2
    assert lookup_tables.index_bits(np.arange(128), None) == 7
    assert lookup_tables.table_bytes(np.arange(129), None) is None


@pytest.fixture(scope="module")
def shared_weights(process):
    """An int8 file of each kind of kernel, seven values in each; in the depthwise one more than 128."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 16), name="image"),
            layers.Conv2D(32, 3, activation="relu", name="conv"),
            layers.DepthwiseConv2D(3, depth_multiplier=8, name="depthwise"),
            layers.Conv2DTranspose(16, 3, name="transposed"),
            layers.Flatten(name="flat"),
            layers.Dense(10, name="dense"),
        ]
    )
    for layer in model.layers:
        if layer.weights:
            kernel = np.array(layer.kernel)
            step = np.abs(kernel).max() / 3
            layer.kernel.assign(np.round(kernel / step) * step)
    x = np.random.default_rng(0).normal(size=(40, 8, 8, 16)).astype("float32")
    with Converter(model, process=process) as converter:
        files = [converter.draft(r)[0] for r in (Recipe(precision="int8", calibration=x), Recipe())]
    return files, x


@needs_runtime
@pytest.mark.parametrize("precision", [0, 1], ids=["int8", "float32"])
@pytest.mark.sweep(1)
def test_compressed_file_computes_the_same(shared_weights, precision):
    files, x = shared_weights
    content = files[precision]
    smaller = compress_for_micro(content)
    expected, got = (micro.run(file, x[:4], ports_of=content) for file in (content, smaller))
    assert list(expected.outputs) == list(got.outputs)
    for name, values in expected.outputs.items():
        np.testing.assert_array_equal(values, got.outputs[name])
        assert values.std() > 0
    decodes = [op for op in flatbuffer.operators(smaller) if op.name == "TFLM_DECODE"]
    decoded = {name.removesuffix("_decoded") for op in decodes for name in op.outputs}
    assert {"conv/kernel", "transposed/kernel", "dense/kernel"} <= decoded
    assert "AddDecode" in micro.resolver_methods(smaller)
    # What the report says, and the operators that decode.
    report = tfstruct.pack(content).report
    assert report.lookup < len(smaller) < report.lookup + 800 * len(decoded) < len(content)


@needs_runtime
def test_nothing_to_gain(digits_model, process):
    with Converter(digits_model, process=process) as converter:
        content = converter.draft(Recipe())[0]
    with pytest.raises(ConversionError, match="No kernel of the file becomes smaller"):
        compress_for_micro(content)


@needs_runtime
def test_a_file_that_computes_other_values_is_not_handed_out(shared_weights, monkeypatch):
    # One table for a tensor of several scales: tflite-micro writes it, and reads something else.
    monkeypatch.setattr(lookup_tables, "table_axis", lambda tensor: None)
    with pytest.raises(ConversionError, match="computes other values"):
        compress_for_micro(shared_weights[0][0])
