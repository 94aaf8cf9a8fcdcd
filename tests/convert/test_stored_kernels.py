"""Kernels of a file back in the model: by hand, by what the model computes then, and where they do not fit."""

import warnings

import keras
import numpy as np
import pytest
import zoo
from sweeps import sweep

from tfstruct import Recipe
from tfstruct.convert import Converter, dequantize, flatbuffer
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ModelError
from tfstruct.samples.arrays_by_name import arrays_by_name


def converted(model, process, precision="int8", **recipe):
    x = zoo.sample_inputs(model, 32)
    data = None if precision == "dynamic" else x
    with Converter(model, process=process) as converter:
        return converter.draft(Recipe(precision=precision, calibration=data, **recipe))[0]


def outputs(content, x):
    runtime = Runtime(content)
    return list(runtime.run_all(arrays_by_name(x, [port.name for port in runtime.inputs])).values())


def signal_to_noise(ours, theirs):
    """The least over the outputs, in dB."""
    pairs = zip(keras.tree.flatten(ours), theirs, strict=True)
    return min(10 * np.log10(np.sum(b**2) / np.sum((a - b) ** 2)) for a, b in pairs)


@pytest.fixture(scope="module")
def conv_bn(process):
    """A model with a batch norm of which one channel is off, and its int8 and int4 files."""
    model = zoo.build("conv_bn")
    gamma = np.array(model.get_layer("stem_bn").gamma)
    gamma[2:4] = 0.0, -0.7
    model.get_layer("stem_bn").gamma.assign(gamma)
    return model, {p: converted(model, process, p, rounding="nearest") for p in ("int8", "int4")}


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_integers_times_scale_by_the_factor_of_the_batch_norm(conv_bn, precision):
    model, files = conv_bn
    before = model.get_weights()
    plain = dequantize(files[precision], model)
    read = flatbuffer.read(files[precision])
    tensors = {t.name.decode(): t for t in read.subgraphs[0].tensors}
    norm = model.get_layer("stem_bn")
    factor = np.array(norm.gamma) / np.sqrt(np.array(norm.moving_variance) + norm.epsilon)
    for name, g in (("stem", factor), ("conv", np.ones(12)), ("head", np.ones(5))):
        stored = tensors[f"{name}/kernel"]
        q = flatbuffer.integers(read, stored)
        assert np.abs(q).max() == {"int8": 127, "int4": 7}[precision]
        scaled = q * np.array(stored.quantization.scale).reshape(-1, *[1] * (q.ndim - 1))
        expected = np.moveaxis(scaled, 0, -1)[..., g != 0] / g[g != 0]
        kernel, own = np.array(plain.get_layer(name).kernel), np.array(model.get_layer(name).kernel)
        np.testing.assert_allclose(kernel[..., g != 0], expected, rtol=1e-6)
        np.testing.assert_array_equal(kernel[..., g == 0], own[..., g == 0])
        assert not np.array_equal(kernel, own)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert [w.name for w in plain.weights] == [w.name for w in model.weights]


@pytest.mark.parametrize("name", sweep(zoo.MODELS, ["depthwise", "nested"]))
def test_the_model_computes_what_the_file_computes(name, process):
    model = zoo.build(name)
    content = converted(model, process, "int16x8", allow_float=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every kernel is found
        plain = dequantize(content, model)
    # Within the range of the calibration, which was done with the weights as they were.
    x = zoo.sample_inputs(model, 32)
    x = keras.tree.map_structure(lambda a: np.float32(0.9) * a if a.dtype == np.float32 else a, x)
    theirs = outputs(content, x)
    # Activations of 16 bits hardly round: what is left of the difference came from the weights.
    reached = signal_to_noise(plain.predict(x, verbose=0), theirs)
    assert reached > 60 and reached > signal_to_noise(model.predict(x, verbose=0), theirs) + 15


def test_a_rescaling_before_a_convolution_is_folded_too(process):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2), name="image"),
            keras.layers.Rescaling(1 / 16, name="rescale"),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    zoo.randomise(model)
    content = converted(model, process)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = dequantize(content, model)
    own, kernel = np.array(model.get_layer("conv").kernel), np.array(plain.get_layer("conv").kernel)
    step = np.abs(own).max(axis=(0, 1, 2)) / 127
    assert 0.1 < np.abs((kernel - own) / step).max() < 0.501


def test_weights_rounded_by_gptq(process):
    model = zoo.build("conv1d")
    content = converted(model, process, "int4")
    x = zoo.sample_inputs(model, 32)
    ours = signal_to_noise(dequantize(content, model).predict(x, verbose=0), outputs(content, x))
    assert ours > signal_to_noise(model.predict(x, verbose=0), outputs(content, x)) + 6


def test_training_goes_on(conv_bn):
    model, files = conv_bn
    plain = dequantize(files["int4"], model)
    x = zoo.sample_inputs(model, 32)
    y = np.arange(32) % 5
    plain.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    losses = plain.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_what_is_left_is_listed(conv_bn, process):
    model, files = conv_bn
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    other.get_layer("conv").kernel.assign(np.array(model.get_layer("conv").kernel)[..., ::-1])
    with pytest.warns(UserWarning, match=r"1 of 3 kernels of 'conv_bn' stay as they are: conv/kernel \(the file's"):
        plain = dequantize(files["int8"], other)
    np.testing.assert_array_equal(plain.get_layer("conv").kernel, other.get_layer("conv").kernel)
    scaled = keras.models.clone_model(model)
    scaled.set_weights([w * 0.9 for w in model.get_weights()])  # a factor of which nobody knows
    with pytest.raises(ModelError, match="No integer kernel of the file fits"):
        dequantize(files["int8"], scaled)
    lstm = zoo.build("lstm")
    with pytest.warns(UserWarning, match=r"lstm_cell/kernel \(the file has no integers of this layer and shape\)"):
        dequantize(converted(lstm, process, "dynamic"), lstm)


def test_wrong_arguments(conv_bn, process):
    model, files = conv_bn
    with pytest.raises(ModelError, match=r"Expected the keras\.Model that the file was made from"):
        dequantize(files["int8"])
    with pytest.raises(ModelError, match="Expected a TFLiteModel, the bytes"):
        dequantize(model)
    with pytest.raises(ModelError, match="No integer kernel of the file fits 'nested'"):
        dequantize(files["int8"], zoo.build("nested"))
    with pytest.raises(ModelError, match="No integer kernel"):
        dequantize(converted(model, process, "dynamic", layers={"*": "float32"}), model)
