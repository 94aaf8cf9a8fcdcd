"""The plain model with the weights of a twin, and of the file that the twin becomes."""

import keras
import numpy as np
import pytest
import zoo
from sweeps import sweep

from tfstruct import Recipe, convert, quantize
from tfstruct.errors import ModelError
from tfstruct.quantize import Scheme, Twin


@pytest.mark.parametrize(
    ("scheme", "values"),
    [("int8", 255), ("int4", 15), ("ternary", 3), (Scheme("int8", layers={"head": "float32"}), 255)],
)
def test_kernels_lie_on_the_grids_of_the_scheme(scheme, values):
    model = zoo.build("conv_bn")
    before = model.get_weights()
    twin = Twin(model, scheme)
    plain = quantize.dequantize(twin)
    assert type(plain) is type(model) and plain is not model
    rounded = twin.simulation.quantized_weights()
    assert set(rounded) >= {"stem/kernel", "conv/kernel"}
    for name, (weight, value) in rounded.items():
        kernel = np.array(plain.get_layer(name.split("/")[0]).kernel)
        np.testing.assert_array_equal(kernel, value)
        assert not np.array_equal(kernel, weight)
        by_channel = kernel.reshape(-1, kernel.shape[-1]).T
        assert max(len(np.unique(channel)) for channel in by_channel) <= values
    if isinstance(scheme, Scheme):
        np.testing.assert_array_equal(plain.get_layer("head").kernel, model.get_layer("head").kernel)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


@pytest.mark.parametrize("name", sweep(["depthwise", "shared", "nested", "transposed"], ["depthwise"]))
def test_the_file_of_a_twin_gives_the_same_model(name, process):
    model = zoo.build(name)
    twin = Twin(model, "int8")
    x = zoo.sample_inputs(model, 32)
    twin.simulation.frozen_statistics.assign(1.0)
    twin(x, training=True)
    with convert.Converter(model, process=process) as converter:
        file = converter.draft(Recipe(precision="int8", ranges=twin.ranges()))[0]
    ours, theirs = convert.dequantize(twin), convert.dequantize(file, model)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        scale = np.abs(np.array(a)).max()
        np.testing.assert_allclose(np.array(a) / scale, np.array(b) / scale, atol=2e-6)
    with pytest.raises(ModelError, match="A twin knows its model"):
        convert.dequantize(twin, model)


def test_training_goes_on():
    model = zoo.build("nested")
    plain = quantize.dequantize(Twin(model, "int4"))
    plain.compile(keras.optimizers.SGD(1e-2), "mse", jit_compile=False)
    x = zoo.sample_inputs(model, 16)
    losses = plain.fit(x, np.zeros((16, 3)), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    start = quantize.dequantize(Twin(model, "int4"))
    moved = [not np.array_equal(a, b) for a, b in zip(plain.get_weights(), start.get_weights(), strict=True)]
    assert all(moved)
