"""Channels without effect behind products with weights of a custom layer."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from oracle import assert_equal

import tfstruct
from tfstruct.callbacks import PruneChannels

X = np.random.default_rng(0).normal(size=(16, 3, 6)).astype("float32")


class Computes(layers.Layer):
    """A function of the layer and its input, with a kernel (8, 12), a bias and a kernel (12, 8)."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def build(self, shape):
        for name, own in {"w": (8, 12), "b": (12,), "v": (12, 8), "t": (12, 8)}.items():
            setattr(self, name, self.add_weight(shape=own, name=name, initializer="glorot_uniform"))

    def call(self, x):
        return self.function(self, x)


# Name -> (what the layer computes, the weights whose first four of 12 channels are set to zero by axis).
CASES = {
    "relu": (lambda s, x: ops.relu(x @ s.w + s.b) @ s.v, {"w": 1, "b": 0}),
    "read with zeros": (lambda s, x: ops.relu(x @ s.w + s.b) @ s.v, {"v": 0}),
    "transposed": (lambda s, x: ops.tanh(ops.matmul(x, ops.transpose(s.t)) * s.b) @ s.v, {"t": 0}),
    "to a layer": (lambda s, x: ops.relu(x @ s.w + s.b), {"w": 1, "b": 0}),
    "one row": (lambda s, x: ops.relu(ops.mean(x, axis=1) @ s.w + s.b) @ s.v, {"w": 1, "b": 0}),
}


def _assert_alike(model, other):
    assert_equal([model.predict_on_batch(X)], [other.predict_on_batch(X)])


def _model(function):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 6), name="x")
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    return keras.Model(inputs, layers.Dense(4, name="head")(Computes(function, name="own")(x)))


@pytest.mark.parametrize("case", CASES)
def test_channels_without_effect_go(case):
    function, zeroed = CASES[case]
    model = _model(function)
    for name, axis in zeroed.items():
        weight = getattr(model.get_layer("own"), name)
        value = weight.numpy()
        np.moveaxis(value, axis, 0)[:4] = 0.0
        weight.assign(value)
    result = tfstruct.shrink(model)
    _assert_alike(model, result.model)
    sizes = {tuple(w.shape) for w in result.model.weights}
    assert (8, 8) in sizes and not any(12 in shape for shape in sizes)


@pytest.mark.parametrize("function", [lambda s, x: ops.relu(x @ s.w + s.b) @ s.v, lambda s, x: x @ s.w + s.b])
def test_constants_that_are_no_zeros_stay(function):
    model = _model(function)
    own, first = model.get_layer("own"), model.get_layer("first")
    own.w.assign(own.w * np.r_[np.zeros(4), np.ones(8)].astype("float32"))
    own.b.assign(np.ones(12))
    kernel = first.kernel.numpy()
    kernel[:, :2] = 0.0
    first.kernel.assign(kernel)
    first.bias.assign(np.ones(8))
    _assert_alike(model, tfstruct.shrink(model).model)


def test_channels_of_a_custom_layer_are_pruned_while_training():
    model = _model(CASES["relu"][0])
    model.compile("sgd", "mse")
    model.fit(X, np.zeros((16, 3, 4)), epochs=2, verbose=0, callbacks=[PruneChannels(0.5)])
    gone = (model.get_layer("own").w.numpy() == 0).all(0)
    assert gone.sum() == 6
    result = tfstruct.shrink(model)
    _assert_alike(model, result.model)
    assert not any(12 in tuple(w.shape) for w in result.model.weights)
