"""`LSUV`: orthonormal kernels, and layers whose outputs have variance 1."""

import contracts
import keras
import numpy as np
import pytest
from keras import layers

from tfstruct.errors import DataError, ModelError
from tfstruct.initializers import LSUV


def data(count=64):
    return np.random.default_rng(0).normal(2, 3, size=(count, 8, 8, 2)).astype("float32")


def network() -> keras.Model:
    """Nested, shared and fused activations, and every kind of kernel."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    shared = layers.Conv2D(6, 3, padding="same", activation="relu", name="shared")
    block = keras.Sequential([layers.Conv2D(6, 1, activation="tanh", name="first"), shared], name="block")
    x = layers.Conv2D(6, 3, padding="same", name="stem")(inputs)
    x = layers.ReLU()(x)
    x = block(x)
    x = layers.Add()([x, shared(x)])
    x = layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(x)
    x = layers.SeparableConv2D(5, 3, name="separable")(x)
    x = layers.Conv2DTranspose(7, 2, strides=2, activation="relu", name="transposed")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x), name="many")


def variances(model, x, names) -> list[float]:
    """Of outputs before the activation, by a model of its own for each layer."""
    found = []
    for name in names:
        layer = model.get_layer(name)
        before = keras.Model(model.inputs, layer.input)(x)
        activation, layer.activation = layer.activation, keras.activations.linear
        found.append(float(np.var(layer(before).numpy())))
        layer.activation = activation
    return found


def test_variances_are_one():
    model, x = network(), data()
    found = LSUV(model, x, tolerance=0.01)
    assert list(found) == [
        "stem", "block/first", "block/shared", "depthwise", "separable", "transposed", "classes",
    ]  # fmt: skip
    np.testing.assert_allclose(list(found.values()), 1, atol=0.01)
    own = ["stem", "depthwise", "separable", "transposed", "classes"]
    np.testing.assert_allclose(variances(model, x, own), 1, atol=0.01)
    assert model.get_layer("depthwise").activation is keras.activations.relu
    assert not any(w.numpy().any() for w in model.weights if w.name == "bias")


def test_kernels_are_orthonormal_but_for_a_factor():
    model = network()
    LSUV(model, data())
    for name, axis in (("stem", -1), ("transposed", -2), ("classes", -1)):
        w = np.moveaxis(model.get_layer(name).kernel.numpy(), axis, -1)
        w = w.reshape(-1, w.shape[-1])
        gram = w.T @ w if len(w) >= w.shape[1] else w @ w.T
        np.testing.assert_allclose(gram / gram[0, 0], np.eye(len(gram)), atol=1e-5)


def test_frozen_layers_stay():
    model = network()
    model.get_layer("stem").trainable = False
    before = model.get_layer("stem").get_weights()
    assert "stem" not in LSUV(model, data())
    for a, b in zip(model.get_layer("stem").get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["float32", "mixed_float16"])
def test_a_deep_network_learns_from_it(name):
    """40 layers of tanh behind weights far too small: nothing reaches the first, until LSUV."""
    with contracts.policy(name):
        keras.utils.set_random_seed(0)
        chain = [
            layers.Dense(16, "tanh", kernel_initializer=keras.initializers.RandomNormal(0, 0.01)) for _ in range(40)
        ]
        model = keras.Sequential([keras.Input((16,)), *chain, layers.Dense(2)])
    x = np.random.default_rng(0).normal(size=(128, 16)).astype("float32")
    assert np.var(model.predict(x, verbose=0), dtype=float) < 1e-12
    found = LSUV(model, (x, np.zeros(128)), samples=128)
    np.testing.assert_allclose(list(found.values()), 1, atol=0.1)
    assert 0.5 < np.var(model.predict(x, verbose=0), dtype=float) < 2


def test_bad_input():
    model = network()
    before = model.get_weights()
    with pytest.raises(DataError, match="output of `stem` has variance"):
        LSUV(model, np.zeros((4, 8, 8, 2), "float32"))
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)  # an error leaves the model as it was
    with pytest.raises(DataError, match=r"expected shape \(8, 8, 2\)"):
        LSUV(model, np.zeros((4, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"`tolerance` must be a number in \(0, 1\)"):
        LSUV(model, data(), tolerance=0)
    with pytest.raises(ValueError, match="`samples` must be a whole number, 1 or larger"):
        LSUV(model, data(), samples=0)
    model.trainable = False
    with pytest.raises(ModelError, match="`many` has no dense layer or convolution that can be trained"):
        LSUV(model, data())
