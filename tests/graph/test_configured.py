"""Layers made again from their configurations, with functions that Keras could not name."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct import graph as graphs
from tfstruct import surgery
from tfstruct.errors import ModelError
from tfstruct.graph.configured import again, functions_known
from tfstruct.graph.copying import copied


def quick(x):
    return x * ops.sigmoid(1.702 * x)


def other_quick(x):
    return ops.maximum(x, 0.1 * x)


other_quick.__name__ = "quick"  # two of one name, as from two modules
x = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype("float32")


def _model():
    keras.utils.set_random_seed(0)
    y = inputs = keras.Input((6, 6, 3))
    y = layers.Conv2D(8, 3, activation=lambda v: ops.relu(v) + 0.1 * v, name="conv")(y)
    y = layers.Activation(quick)(layers.Conv2D(8, 3, padding="same", activation=other_quick)(y))
    y = layers.Reshape((16, 8))(layers.Activation(ops.square)(y))
    y = layers.GRU(5, activation=lambda v: 0.9 * ops.tanh(v))(y)
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(16, activation=quick, name="hidden")(y)))


def _smaller(model):
    return surgery.apply(model, surgery.plan_channels(model, "macs=60%"))


def _widened(model):
    return surgery.widen(model, "hidden", to=20).model


def _factorized(model):
    return surgery.factorize(model, layers=["hidden", "conv"], rank=2).model


CALLS = {
    "copied": copied,
    "shrink": lambda model: surgery.shrink(model).model,
    "optimize_inference": lambda model: surgery.optimize_inference(model).model,
    "apply": _smaller,
    "widen": _widened,
    "factorize": _factorized,
}


@pytest.mark.parametrize("name", CALLS)
def test_functions_of_ones_own(name):
    model = _model()
    made = CALLS[name](model)
    used = {layer.activation for layer in made.layers if hasattr(layer, "activation")}
    assert {quick, other_quick, model.get_layer("conv").activation, ops.square} <= used
    assert [quick.__name__, other_quick.__name__] == ["quick", "quick"]
    if name in ("copied", "shrink", "optimize_inference", "widen"):
        np.testing.assert_allclose(made(x), model(x), rtol=1e-4, atol=1e-5)


def test_registered_functions_keep_their_names():
    @keras.saving.register_keras_serializable("tests_configured")
    def registered(v):
        return v

    layer = layers.Dense(2, activation=registered)
    with functions_known(layer):
        assert layer.get_config()["activation"]["config"] == "tests_configured>registered"
    assert again(layer).activation is registered


class Broken(layers.Layer):
    def __init__(self, kind=ValueError):
        super().__init__()
        self.kind = kind

    def get_config(self):
        raise self.kind("no such thing")

    def call(self, v):
        return v * 1.0


@pytest.mark.parametrize("kind", [ValueError, AttributeError, KeyError, RuntimeError, NotImplementedError])
def test_a_class_that_does_not_make_itself_again_is_named(kind):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(Broken(kind)(inputs)))
    graph = graphs.trace(model)
    with pytest.raises(ModelError, match=r"cannot be made again from its configuration.*no such thing.*get_config"):
        graphs.rebuild(graph, np.ones(graph.units.count, bool))
