"""Channels without weights, or with tiny ones, and a large bias: no way to integers loses them."""

import keras
import numpy as np
import pytest
from keras import layers as L

from tfstruct.callbacks import QuantizeAware
from tfstruct.convert import Converter, Recipe, flatbuffer, scales
from tfstruct.errors import ConversionError
from tfstruct.quantize import Scheme, adaround, blockwise, calibrate, correct_bias, equalize

IMAGES = np.random.default_rng(0).uniform(0, 1, (32, 6, 6, 4)).astype("float32")
SERIES, ROWS = IMAGES[:, :, 0], IMAGES.reshape(32, -1)[:, :32]
LAYERS = {
    "conv": (IMAGES, lambda: [L.Conv2D(12, 3, activation="relu"), L.Conv2D(6, 1)]),
    "batch norm": (IMAGES, lambda: [L.Conv2D(12, 3, use_bias=False), L.BatchNormalization(), L.ReLU(), L.Conv2D(6, 1)]),
    "depthwise": (
        IMAGES,
        lambda: [L.DepthwiseConv2D(3, depth_multiplier=3, use_bias=False), L.BatchNormalization(), L.ReLU()],
    ),
    "transposed": (IMAGES, lambda: [L.Conv2DTranspose(12, 3, strides=2), L.BatchNormalization(), L.ReLU()]),
    "dense": (ROWS, lambda: [L.Dense(12, use_bias=False), L.BatchNormalization(), L.ReLU(), L.Dense(6)]),
    "einsum": (SERIES, lambda: [L.EinsumDense("abc,cd->abd", (None, 12), bias_axes="d"), L.ReLU(), L.Dense(6)]),
}
# The last channels times these; the smallest is no normal float32.
FACTORS = (0.0, 1e-6, 1e-12, 1e-30, 1e-42)


def dead_channels(name: str) -> tuple[keras.Model, np.ndarray]:
    keras.utils.set_random_seed(1)
    x, make = LAYERS[name]
    model = keras.Sequential([keras.Input(x.shape[1:]), *make()])
    rng = np.random.default_rng(2)
    for weight in model.weights:
        if len(weight.shape) == 1:
            value = rng.uniform(0.5, 2, weight.shape) * (
                1 if "variance" in weight.path else rng.choice([-1, 1], weight.shape)
            )
            if "gamma" in weight.path:
                value[:3] = 0, 1e-12, 1e-36
            if "moving_variance" in weight.path:
                value[3] = 0
            if "moving_mean" in weight.path:
                value[3:] *= 0.1
            weight.assign(value)
        else:
            axis = -2 if "transpose" in weight.path else -1
            value = np.moveaxis(weight.numpy(), axis, -1)
            if "depthwise" in weight.path:
                value = value.reshape(*value.shape[:2], -1)
            value[..., -len(FACTORS) :] *= FACTORS
            if value.shape[-1] == 12:
                value[..., 3] *= 1e-3
            weight.assign(np.moveaxis(value, -1, axis) if "transpose" in weight.path else value.reshape(weight.shape))
    return model, x


def trained(model, x):
    compressor = QuantizeAware("int8")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(x, np.asarray(model(x)), epochs=1, batch_size=16, verbose=0, callbacks=[compressor])
    return compressor.twin


TWINS = {
    "calibrate": lambda model, x: calibrate(model, x),
    "one step by kernel": lambda model, x: calibrate(model, x, Scheme("int8", per="tensor")),
    "learned steps": lambda model, x: calibrate(model, x, Scheme("int8", steps="learned")),
    "adaround": lambda model, x: adaround(model, x, steps=4),
    "blockwise": lambda model, x: blockwise(model, x, steps=4),
    "QuantizeAware": trained,
}
ALL_TWINS = {"dense", "batch norm"}  # the others where ranges or steps go to kernels in another way


def sqnr(wanted, got) -> float:
    return 10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum())


def settled(made) -> float:
    (agreement,) = made.report.verification.outputs
    assert not any("32 bits" in line or "weight_limits" in line for line in made.report.warnings)
    return agreement.sqnr_db


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.sweep(3)
def test_in_files(name, process):
    model, x = dead_channels(name)
    with Converter(model, process=process) as converter:
        for fields, least in (
            ({"precision": "int8", "engine": "litert"}, 38),
            ({"precision": "int8", "rounding": "gptq"}, 38),
            ({"precision": "int4"}, 20),
            ({"precision": "dynamic"}, 38),
        ):
            data = {} if fields["precision"] == "dynamic" else {"calibration": x, "check_range": False}
            assert settled(converter.convert(Recipe(verification=x, **data, **fields))) > least, fields


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.sweep(1)
def test_in_twins(name, process):
    model, x = dead_channels(name)
    wanted = np.asarray(model(x))
    for way, make in TWINS.items():
        if way in ("calibrate", "learned steps") or name in ALL_TWINS:
            twin = make(model, x)
            assert sqnr(wanted, np.asarray(twin(x, training=False))) > 36, way
            with Converter(twin, process=process) as converter:
                assert settled(converter.convert(Recipe(verification=x))) > 36, way


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.sweep(3)
def test_after_edits(name, process):
    """A channel that is a constant is not scaled to the size of the others, and its bias with it."""
    model, x = dead_channels(name)
    wanted = np.asarray(model(x))
    even, corrected = equalize(model), correct_bias(model, x)
    np.testing.assert_allclose(even(x), wanted, atol=1e-4 * np.abs(wanted).max())
    for made in (even, corrected):
        assert all(np.isfinite(weight).all() for weight in made.get_weights())
        assert sqnr(wanted, np.asarray(calibrate(made, x)(x, training=False))) > 36


@pytest.mark.parametrize("make", [adaround, blockwise], ids=["adaround", "blockwise"])
def test_a_layer_that_makes_zeros(make):
    model = keras.Sequential([keras.Input((4,)), L.Dense(8, "relu"), L.Dense(3, bias_initializer="ones")])
    model.layers[0].kernel.assign(-np.ones((4, 8)))
    x, told = np.random.default_rng(0).uniform(0, 1, (32, 4)).astype("float32"), []
    twin = make(model, x, steps=4, report=told.append)
    assert sqnr(np.asarray(model(x)), np.asarray(twin(x, training=False))) > 36
    assert all(np.isfinite([unit.nearest, unit.after]).all() for unit in told[0].units)


@pytest.mark.parametrize("sizes", [(4, 8, 4), (8, 8, 8)])
def test_kernels_of_equal_bytes(sizes, process):
    """TensorFlow's converter stores kernels of zeros once, whatever their shapes."""
    model = keras.Sequential([keras.Input((sizes[0],)), *(L.Dense(n, bias_initializer="ones") for n in sizes[1:])])
    for layer in model.layers:
        layer.kernel.assign(np.zeros(layer.kernel.shape))
    x = np.random.default_rng(0).normal(size=(32, sizes[0])).astype("float32")
    with Converter(model, process=process) as converter:
        for fields in ({"precision": "int8", "calibration": x, "engine": "litert"}, {"precision": "dynamic"}):
            assert settled(converter.convert(Recipe(verification=x, **fields))) > 40


def test_a_scale_that_is_no_number_is_an_error(process):
    model, x = dead_channels("conv")
    name = model.layers[0].name
    with Converter(model, process=process) as converter:
        made = converter.convert(Recipe(precision="int8", calibration=x))
    scales.check(made.content, made.layers)
    for scale in (0.0, 1e-42, np.inf, np.nan):
        parsed = flatbuffer.read(made.content)
        kernel = next(t for t in parsed.subgraphs[0].tensors if t.name.decode() == f"{name}/kernel")
        kernel.quantization.scale = np.array([scale, *list(kernel.quantization.scale)[1:]], np.float32)
        expected = rf"{name}/kernel \(1 of 12, as .*keep the layer in float32"
        with pytest.raises(ConversionError, match=expected) as error:
            scales.check(flatbuffer.write(parsed), made.layers)
        assert error.value.layers == (name,)
