"""One layer that cannot be opened, compared or trained leaves all others and the user's objects as they are."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from custom_layers import Noisy, OtherInTraining, RawTensorFlow, Scaled
from keras import layers, ops

from tfstruct import surgery
from tfstruct.graph import fingerprint
from tfstruct.graph.opening import open_model

X = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")


class ForInference(layers.Layer):
    def call(self, x, training=None):
        if training:
            raise NotImplementedError("it has no training")
        return ops.relu(x)


class ForInferenceInside(ForInference):
    """One whose weight the others' gradients pass."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name="scale", initializer="ones")

    def call(self, x, training=None):
        return super().call(x, training) * self.scale


class Counts(layers.Layer):
    """Notes what it sees in attributes of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls, self.shapes, self.by_shape, self.seen, self.last = 0, [], {}, set(), None

    def call(self, x):
        self.calls += 1
        self.shapes.append(x.shape)
        self.by_shape[tuple(x.shape)] = x
        self.seen.add(len(self.shapes))
        self.last = self.new = x
        return ops.relu(x)


class RawNoise(layers.Layer):
    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


def _model(*made):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,), name="x")
    for layer in made:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


@pytest.mark.parametrize("kind", [ForInference, ForInferenceInside])
def test_a_layer_that_raises_in_training_stays_closed_alone(kind):
    model = _model(Scaled(8, name="first"), kind(name="block"), Scaled(5, name="last"))
    found = open_model(model)
    assert found.opened == ("first", "last") and set(found.closed) == {"block"}
    assert "in training NotImplementedError: it has no training" in found.closed["block"]
    np.testing.assert_allclose(found.model(X), model(X), atol=1e-6)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_equality_follows_the_dtype_of_layers(dtype):
    made = [Scaled(n, name=f"scaled{n}", dtype=dtype) for n in (32, 64, 48)]
    found = open_model(_model(*made))
    assert not found.closed and len(found.opened) == 3


def test_attributes_are_as_they_were():
    layer = Counts(name="counts")
    model = _model(Scaled(8, name="first"), layer)
    before = dict(vars(layer))
    held = [layer.calls, list(layer.shapes), dict(layer.by_shape), set(layer.seen), layer.last]
    assert open_model(model).opened == ("first", "counts")
    assert vars(layer).keys() == before.keys()
    assert all(value is before[name] for name, value in vars(layer).items() if name != "_called")
    assert held == [layer.calls, list(layer.shapes), dict(layer.by_shape), set(layer.seen), layer.last]
    model(X)
    assert layer.calls == held[0] + 1


@pytest.mark.parametrize("kind", [OtherInTraining, RawTensorFlow, Noisy])
def test_every_reason_names_a_line_of_the_users_code(kind):
    (reason,) = open_model(_model(kind(name="block"), Scaled(8))).closed.values()
    assert "custom_layers.py:" in reason


def test_a_layer_that_is_random_in_inference_is_called_so():
    found = open_model(_model(Scaled(8, name="first"), layers.Lambda(lambda x: x + tf.random.normal(tf.shape(x)))))
    assert not found.opened and "random" in found.closed["first"]
    found = open_model(_model(Scaled(8, name="first"), Noisy(name="noise")))
    assert found.opened == ("first",)  # by `keras.random` numbers are drawn alike


def test_a_train_step_of_its_own_is_told():
    class Own(keras.Model):
        def train_step(self, data):
            return {"loss": 0.0}

    inputs = keras.Input((6,))
    model = Own(inputs, Scaled(4, name="block")(inputs))
    with pytest.warns(UserWarning, match="train_step is not part"):
        result = surgery.open_layers(model)
    assert result.own_steps == ("train_step",)
    assert "own train_step" in str(result.report)
    assert all(a is b for a, b in zip(model.trainable_variables, result.model.trainable_variables, strict=True))


def test_a_fingerprint_lasts_through_a_file(tmp_path):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(3, name="head")(Scaled(8, name="block")(inputs)))
    for one in (model, open_model(model).model):
        one.save(tmp_path / "model.keras")
        assert fingerprint(keras.models.load_model(tmp_path / "model.keras")) == fingerprint(one)
    assert fingerprint(model) != fingerprint(open_model(model).model)
