"""Losses that custom layers add: always, in training only, in a nested layer, in the model itself."""

import custom_layers
import keras
import numpy as np
import pytest
from keras import layers, ops
from oracle import assert_equal

from tfstruct import surgery, to_tflite
from tfstruct.graph.opening import open_model
from tfstruct.quantize import calibrate


@keras.saving.register_keras_serializable("tests")
class Codebook(layers.Layer):
    """The nearest of `count` vectors, with both losses of van den Oord et al. (arXiv:1711.00937)."""

    def __init__(self, count=12, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], self.count), name="table")

    def call(self, x):
        far = ops.sum(self.table**2, axis=0) - 2 * ops.matmul(x, self.table)
        nearest = ops.matmul(ops.one_hot(ops.argmin(far, axis=-1), self.count), ops.transpose(self.table))
        self.add_loss([0.25 * ops.mean((ops.stop_gradient(nearest) - x) ** 2), 0.1 * ops.mean(self.table**2)])
        self.add_loss(ops.mean((nearest - ops.stop_gradient(x)) ** 2))
        return x + ops.stop_gradient(nearest - x)

    def get_config(self):
        return {**super().get_config(), "count": self.count}


@keras.saving.register_keras_serializable("tests")
class Experts(layers.Layer):
    """A sum of experts by weights of a router, which should use them alike: a loss in training only."""

    def __init__(self, width=8, count=3, **kwargs):
        super().__init__(**kwargs)
        self.width, self.count = width, count
        self.router = layers.Dense(count)
        self.experts = [layers.Dense(width, activation="relu") for _ in range(count)]

    def build(self, shape):
        for layer in (self.router, *self.experts):
            layer.build(shape)

    def call(self, x, training=None):
        shares = ops.softmax(self.router(x))
        if training:
            self.add_loss(0.1 * ops.sum(ops.mean(shares, axis=0) ** 2))
        return sum(shares[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))

    def get_config(self):
        return {**super().get_config(), "width": self.width, "count": self.count}


class Outer(layers.Layer):
    """A loss of its own in training, and a layer with another one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = Codebook()

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x, training=None):
        if training:
            self.add_loss(ops.mean(ops.abs(x)))
        return self.inner(x) * 2.0


class LosesInInference(layers.Layer):
    def call(self, x, training=None):
        if not training:
            self.add_loss(ops.mean(x))
        return x * 1.0


class Whole(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = Experts(), layers.Dense(3)

    def build(self, shape):
        self.first.build(shape)
        self.last.build((*shape[:-1], 8))
        self.built = True

    def call(self, x, training=None):
        y = self.first(x, training=training)
        self.add_loss(ops.mean(y**2))
        return self.last(y)


MODELS = {
    "always": lambda: custom_layers._vector(Codebook(name="own")),
    "in training": lambda: custom_layers._vector(Experts(name="own"), layers.Dropout(0.5)),
    "both": lambda: custom_layers._vector(Experts(name="experts"), Codebook(name="own")),
    "in a nested layer": lambda: custom_layers._vector(Outer(name="own")),
    "called twice": lambda: custom_layers._vector(*[Experts(name="own")] * 2),
}


def losses(model, x, training) -> list[float]:
    model(x, training=training)
    return sorted(float(loss) for loss in model.losses)


def apart(model, other, x) -> float:
    """The largest relative difference of what two models add in inference and in training."""
    found = [[losses(one, x, training) for one in (model, other)] for training in (False, True)]
    assert [len(a) for a, _ in found] == [len(b) for _, b in found] and found[1][0]
    return max((abs(a - b) / abs(a) for pair in found for a, b in zip(*pair, strict=True)), default=0.0)


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_those_of_the_original(name, tmp_path):
    model = custom_layers.randomized(MODELS[name]())
    found = surgery.open_layers(model)
    assert "own" in found.opened and not found.opaque
    x = custom_layers.inputs_of(model)
    assert apart(model, found.model, x) < 1e-5
    assert_equal([np.asarray(model(x))], [np.asarray(found.model(x))])
    found.model.save(tmp_path / "opened.keras")
    assert apart(model, keras.models.load_model(tmp_path / "opened.keras"), x) < 1e-5


def test_the_model_itself_adds_losses():
    model = Whole(name="whole")
    model.build((None, 8))
    found = surgery.open_layers(custom_layers.randomized(model), (None, 8))
    assert apart(model, found.model, np.random.default_rng(0).normal(size=(4, 8)).astype("float32")) < 1e-5


def test_a_loss_in_inference_only_keeps_a_layer_closed():
    found = open_model(custom_layers._vector(LosesInInference(name="own"), custom_layers.Feed(name="feed")))
    assert found.opened == ("feed",) and "outputs in training" in found.closed["own"]


def test_pruned_trained_and_in_a_file():
    model = custom_layers.randomized(MODELS["both"]())
    x = np.random.default_rng(0).normal(size=(64, *model.input_shape[1:])).astype("float32")
    smaller = surgery.apply(model, surgery.plan_channels(model, "macs=60%"))
    assert smaller.count_params() < model.count_params() and len(losses(smaller, x, True)) == 4
    smaller.compile("adam", "mse")
    first, *_, last = smaller.fit(x, np.zeros((64, *smaller.output_shape[1:])), epochs=10, verbose=0).history["loss"]
    assert last < first
    twin = calibrate(smaller, x)
    file = to_tflite(twin, "int8", calibration=x)
    step = file.outputs[0].scale
    assert np.abs(np.asarray(file.predict(x)) - np.asarray(twin(x, training=False))).max() <= 2.01 * step
