"""Equalization: the same function, channels of like ranges, and what is left alone said."""

import json

import keras
import numpy as np
import pytest
import zoo
from keras import layers

from tfstruct.errors import ModelError
from tfstruct.quantize import Scheme, Twin, equalize


def functional(build, shape=(9, 9, 4), seed=0):
    inputs = keras.Input(shape, name="image")
    return uneven(zoo.randomise(keras.Model(inputs, build(inputs)), seed))


def chain(*parts, shape=(9, 9, 4)):
    return uneven(zoo.randomise(keras.Sequential([keras.Input(shape), *parts])))


def uneven(model):
    """Channels that differ by up to a thousand times: the last axis of each kernel, and its bias."""
    rng = np.random.default_rng(3)
    for layer in model._flatten_layers():
        for weight in layer.weights if not isinstance(layer, keras.Model) else ():
            if "kernel" in weight.name:
                weight.assign(weight * 10.0 ** rng.uniform(-1.5, 1.5, weight.shape[-1]))
    return model


def check(model, x=None, **options):
    """Equalizes, compares outputs, and hands out the new model and the report."""
    weights = [w.numpy().copy() for w in model.weights]
    said = []
    made = equalize(model, report=said.append, **options)
    x = zoo.sample_inputs(model, 5) if x is None else x
    for a, b in zip(keras.tree.flatten(model(x)), keras.tree.flatten(made(x)), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-5 * np.abs(a).max())
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(weights, model.weights, strict=True))
    assert made.name == model.name and [y.name for y in made.layers] == [y.name for y in model.layers]
    return made, said[0]


def test_by_hand():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(2, activation="relu"), layers.Dense(1)])
    model.set_weights([np.array([[4.0, 1.0]]), np.array([2.0, 3.0]), np.array([[1.0], [4.0]]), np.array([5.0])])
    made, report = check(model, np.array([[1.0], [-1.0]]))
    # s = (sqrt(4 / 1), sqrt(1 / 4))
    wanted = [np.array([[2.0, 2.0]]), np.array([1.0, 6.0]), np.array([[2.0], [2.0]]), np.array([5.0])]
    for got, value in zip(made.get_weights(), wanted, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-6)
    (pair,) = report.pairs
    assert (pair.layer, pair.readers) == (model.layers[0].name, (model.layers[1].name,))
    assert (pair.made_before, pair.read_before) == (0.625, 0.625)
    assert (pair.made_after, pair.read_after) == pytest.approx((1.0, 1.0))
    assert report.skipped == (
        (model.layers[1].name, f"the output of `{model.layers[1].name}` is an output of the model"),
    )


BETWEEN = {
    "relu": [layers.ReLU(name="between")],
    "leaky": [layers.LeakyReLU(0.2), layers.Dropout(0.5)],
    "prelu": [layers.PReLU(alpha_initializer="normal")],
    "nothing": [],
    "pooling": [layers.Activation("relu"), layers.MaxPooling2D(2), layers.ZeroPadding2D(1), layers.AveragePooling2D(2)],
    "batch norm": [layers.BatchNormalization(), layers.ReLU()],
    "plain batch norm": [layers.BatchNormalization(scale=False, center=False), layers.ReLU()],
}
SECONDS = {
    "conv": lambda: layers.Conv2D(5, 3, padding="same"),
    "grouped": lambda: layers.Conv2D(6, 3, groups=3),
    "depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
    "separable": lambda: layers.SeparableConv2D(5, 3),
    "transposed": lambda: layers.Conv2DTranspose(5, 2),
    "dense": lambda: layers.Dense(5),
    "einsum": lambda: layers.EinsumDense("bhwc,cd->bhwd", (None, None, 5)),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_over(between):
    parts = [type(part).from_config(part.get_config()) for part in BETWEEN[between]]
    model = chain(layers.Conv2D(6, 3, use_bias=False, name="first"), *parts, layers.Conv2D(3, 1, name="second"))
    kernel = model.get_layer("second").kernel
    kernel.assign(kernel / np.abs(model.get_layer("first").kernel).max((0, 1, 2))[:, None])  # large where it is small
    made, report = check(model)
    (pair,) = report.pairs
    assert (pair.layer, pair.readers) == ("first", ("second",))
    assert min(pair.made_after, pair.read_after) > 1.2 * max(pair.made_before, pair.read_before)
    assert made.get_layer("first").use_bias is False
    second = np.abs(made.get_layer("second").kernel.numpy()).max((0, 1, 3))
    if "norm" not in between:
        np.testing.assert_allclose(np.abs(made.get_layer("first").kernel.numpy()).max((0, 1, 2)), second, rtol=3e-3)


@pytest.mark.parametrize("second", SECONDS)
def test_into(second):
    model = chain(
        layers.Conv2D(6, 3, activation="relu", name="first"), SECONDS[second](), layers.ReLU(), layers.Conv2D(2, 1)
    )
    _, report = check(model)
    assert [pair.layer for pair in report.pairs][:2] == ["first", model.layers[1].name]


def test_three_in_a_row_end_even():
    model = chain(
        layers.Conv2D(6, 1, activation="relu", name="a"),
        layers.DepthwiseConv2D(3, activation="relu", name="b"),
        layers.Conv2D(6, 1, name="c"),
    )
    made, _ = check(model)
    a, b, c = (np.abs(made.get_layer(name).kernel.numpy()) for name in "abc")
    for other in (b.max((0, 1, 3)), c.max((0, 1, 3))):
        np.testing.assert_allclose(a.max((0, 1, 2)), other, rtol=1e-2)


def test_flattened_nested_and_several_readers():
    block = keras.Sequential(
        [keras.Input((7, 7, 6)), layers.Conv2D(4, 3, activation="relu", name="inner")], name="block"
    )

    def build(x):
        x = layers.Conv2D(6, 3, activation="relu", name="stem")(x)
        left = block(x)
        right = layers.Conv2D(3, 1, name="right")(x)
        return [layers.Dense(3, name="left_head")(layers.Flatten()(left)), right]

    _, report = check(functional(build))
    assert {pair.layer: set(pair.readers) for pair in report.pairs} == {
        "stem": {"block/inner", "right"}, "block/inner": {"left_head"},
    }  # fmt: skip


def test_a_shared_layer():
    def build(x):
        shared = layers.Conv2D(4, 1, activation="relu", name="shared")
        other = layers.Conv2D(3, 1, name="other")
        return [other(shared(x)), other(layers.MaxPooling2D(2)(shared(x)))]

    _, report = check(functional(build))
    assert [(pair.layer, pair.readers) for pair in report.pairs] == [("shared", ("other",))]


def test_what_is_left_alone_and_why():
    def build(x):
        x = layers.ReLU(6.0, name="six")(layers.Conv2D(4, 1, name="clipped")(x))
        x = layers.Conv2D(4, 1, activation="swish", name="swished")(x)
        y = layers.Conv2D(4, 1, name="joined")(x)
        x = layers.Add(name="join")([x, y])
        twice = layers.Dense(4, name="twice")
        return layers.Activation("softmax", name="end")(twice(twice(x)))

    model = functional(build)
    made, report = check(model)
    why = dict(report.skipped)
    assert "clips at 6" in why["clipped"] and "silu does not scale" in why["swished"]
    assert "`join` (Add) reads `joined`" in why["joined"] and "twice" in why
    assert not report.pairs and made is not model
    assert "4 left alone" in str(report) and json.loads(report.to_json())["sweeps"] == 1
    assert report.table().row_count == 4 and report.plot().axes


def test_high_biases_are_absorbed():
    """c = max(0, beta - 3 |gamma|) by the batch norm, or by what data say of the same channel."""
    model = chain(
        layers.Conv2D(4, 1, use_bias=False, name="first"), layers.BatchNormalization(name="bn"), layers.ReLU(),
        layers.Conv2D(3, 1, name="second"), shape=(3, 3, 4),
    )  # fmt: skip
    x = 30 * np.random.default_rng(0).normal(size=(400, 3, 3, 4)).astype("float32")
    z = model.get_layer("first")(x).numpy()
    norm = model.get_layer("bn")
    gamma, beta = np.array([1, 0.5, 2, -1.0]), np.array([8, 1.0, -3, 9])
    norm.set_weights([gamma, beta, z.mean((0, 1, 2)), z.var((0, 1, 2))])
    plain = equalize(model)
    said = []
    for absorb in ("batch_norm", x):
        made = equalize(model, absorb=absorb, deviations=5.0, report=said.append)
        scale = plain.get_layer("bn").gamma.numpy() / gamma
        wanted = np.maximum(beta - 5 * np.abs(gamma), 0) * scale
        np.testing.assert_allclose(plain.get_layer("bn").beta - made.get_layer("bn").beta, wanted, rtol=1e-2, atol=1e-6)
        np.testing.assert_allclose(made(x), model(x), rtol=0, atol=1e-5 * np.abs(model(x)).max())
    assert [report.absorbed for report in said] == [(("first", 2),)] * 2
    padded = chain(
        layers.Conv2D(4, 1, activation="relu", name="first"), layers.Conv2D(3, 3, padding="same"), shape=(3, 3, 4)
    )
    padded.get_layer("first").bias.assign(np.full(4, 1e3))
    for absorb, why in ((x, "pads its input"), ("batch_norm", "no batch norm behind it")):
        _, report = check(padded, x, absorb=absorb)
        assert why in dict(report.skipped)["first"] and not report.absorbed


def test_a_depthwise_channel_a_hundred_times_smaller_survives_one_scale_for_all():
    """Its neighbours make up for it, as they do in trained networks: then 8 bits for the whole kernel are enough."""
    model = zoo.randomise(keras.Sequential([
        keras.Input((8, 8, 8)), layers.Conv2D(8, 1, activation="relu", name="before"),
        layers.DepthwiseConv2D(3, activation="relu", name="depthwise"), layers.Conv2D(8, 1, name="behind"),
    ]))  # fmt: skip
    for name, axis, factor in (("before", 3, 10.0), ("depthwise", 2, 0.01), ("behind", 2, 10.0)):
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel * np.moveaxis(np.where(np.arange(8) == 3, factor, 1.0).reshape(8, 1, 1, 1), 0, axis))

    def error(model, per="tensor"):
        weight, rounded = Twin(model, Scheme("int8", per=per)).simulation.quantized_weights()["depthwise/kernel"]
        wanted = weight.numpy()
        return np.linalg.norm((rounded - wanted)[:, :, 3]) / np.linalg.norm(wanted[:, :, 3])

    made, _ = check(model)
    assert error(model) > 0.2 and error(made) < 0.01 and error(model, "channel") < 0.01


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`absorb` must be data, 'batch_norm' or None"):
        equalize(zoo.build("conv_bn"), absorb="yes")
    with pytest.raises(ModelError, match="subclassed"):
        equalize(zoo.build("subclassed"))
