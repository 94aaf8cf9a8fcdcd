"""Bias correction: by hand, and the means of a quantized model where they were in float."""

import json

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from sweeps import sweep

from tfstruct.quantize import Scheme, Twin, calibrate, correct_bias


def copied(model):
    return [w.numpy().copy() for w in model.weights]


def test_by_hand():
    """b' = b - (E[W' x'] - E[W x])."""
    model = zoo.randomise(keras.Sequential([keras.Input((6,), name="x"), layers.Dense(3, use_bias=False, name="fc")]))
    x = np.random.default_rng(0).normal(2.0, 1.0, (200, 6)).astype("float32")
    said = []
    made = correct_bias(model, x, "int4", report=said.append)
    w = model.get_layer("fc").kernel.numpy()
    step = np.abs(w).max(0) / 7
    twin = calibrate(model, x, "int4")
    low, high = twin.ranges()["x"]
    scale = (high - low) / 255
    zero = np.round(-128 - low / scale)
    seen = (np.clip(np.round(x / scale) + zero, -128, 127) - zero) * scale
    wanted = -(seen.mean(0) @ (np.round(w / step) * step) - x.mean(0) @ w)
    np.testing.assert_allclose(made.get_layer("fc").bias, wanted, atol=1e-4)
    np.testing.assert_array_equal(made.get_layer("fc").kernel, w)
    assert not model.get_layer("fc").use_bias
    (row,) = said[0].layers
    assert (row.layer, row.largest) == ("fc", pytest.approx(np.abs(wanted).max(), abs=1e-4))


@pytest.mark.parametrize("name", sweep(["conv_bn", "depthwise", "shared", "nested"], quick=["conv_bn"]))
def test_means_of_the_last_layer_are_where_they_were(name):
    model = zoo.build(name)
    x = zoo.sample_inputs(model, 48)
    last = [layer for layer in model._flatten_layers() if isinstance(layer, layers.Dense)][-1]
    last.activation = keras.activations.linear
    weights = copied(model)
    scheme = Scheme("int4")
    before, made = calibrate(model, x, scheme), correct_bias(model, x, scheme)
    after = Twin(made, scheme)
    after.simulation.assign(before.simulation.values())
    wanted = np.mean(np.asarray(model(x)), axis=0)
    errors = [np.abs(np.mean(np.asarray(twin(x)), axis=0) - wanted).max() for twin in (before, after)]
    low, high = before.ranges()[next(path for path in before.ranges() if path.endswith(last.name))]
    assert errors[1] < 0.2 * errors[0] or errors[1] < (high - low) / 255
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(weights, model.weights, strict=True))
    assert [layer.name for layer in made.layers] == [layer.name for layer in model.layers]


def test_the_beta_of_a_batch_norm_takes_the_shift():
    model = zoo.randomise(keras.Sequential([
        keras.Input((6, 6, 3)), layers.Conv2D(4, 3, use_bias=False, name="conv"),
        layers.BatchNormalization(center=False, name="bn"), layers.ReLU(), layers.Conv2D(4, 3, name="next"),
        layers.BatchNormalization(name="bn2"),
    ]))  # fmt: skip
    made = correct_bias(model, zoo.sample_inputs(model, 32), "int4")
    assert not made.get_layer("conv").use_bias and made.get_layer("bn").center
    assert np.abs(made.get_layer("bn").beta).max() > 0
    np.testing.assert_array_equal(made.get_layer("bn").gamma, model.get_layer("bn").gamma)
    np.testing.assert_array_equal(made.get_layer("next").bias, model.get_layer("next").bias)
    assert np.abs(made.get_layer("bn2").beta - model.get_layer("bn2").beta).max() > 0


def test_a_twin_gives_a_twin_of_the_same_ranges():
    model = zoo.build("residual")
    x = zoo.sample_inputs(model, 32)
    first = calibrate(model, x, "int4", "percentile")
    said = []
    made = correct_bias(first, x, progress=lambda *what: said.append(what))
    assert isinstance(made, Twin) and made.model is not model
    assert made.ranges() == first.ranges() and made.scheme == first.scheme
    assert said[-1] == ("correct biases", 3, 3)


def test_kernels_without_a_bias_by_channel_are_listed():
    model = zoo.build("gru")
    said = []
    correct_bias(model, zoo.sample_inputs(model, 8), report=said.append)
    assert dict(said[0].left) == {"gru_layer": "a GRU has no one bias by channel"}
    assert [row.layer for row in said[0].layers] == ["head"]
    assert "1 left alone" in str(said[0]) and json.loads(said[0].to_json())["precision"] == "int8"
    assert said[0].table().row_count == 2 and said[0].plot().axes


def test_a_custom_layer_that_is_called_in_two_ways():
    class Twice(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], shape[-1]), name="w", initializer="glorot_uniform")

        def call(self, x, scale=1.0):
            return keras.ops.matmul(x, self.w) * scale

    inputs = keras.Input((6,))
    twice = Twice()
    x = twice(twice(inputs), scale=2.0)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    data = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    twin = calibrate(model, data)
    corrected = correct_bias(twin, data)
    error = np.asarray(corrected(data) - model(data)).mean(0)
    assert np.abs(error).max() <= np.abs(np.asarray(twin(data) - model(data)).mean(0)).max() + 1e-6
