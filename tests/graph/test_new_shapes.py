"""Weights that get another shape, whose initializer, regularizer or constraint is made for the old one."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import surgery

rng = np.random.default_rng(0)


def _array(*shape):
    return keras.initializers.Constant(rng.normal(size=shape).astype("float32"))


@keras.saving.register_keras_serializable("tests")
class OneShape(keras.initializers.Initializer):
    """Makes one shape only, and its configuration does not say so."""

    def __call__(self, shape, dtype=None):
        if tuple(shape) != (16,):
            raise ValueError(f"one shape only, not {shape}")
        return keras.ops.ones(shape, dtype)


@keras.saving.register_keras_serializable("tests")
class Weighted(keras.regularizers.Regularizer):
    def __init__(self, shape):
        self.weights = np.ones(shape, "float32")

    def __call__(self, x):
        return keras.ops.sum(keras.ops.abs(x) * self.weights)

    def get_config(self):
        return {"shape": list(self.weights.shape)}


@keras.saving.register_keras_serializable("tests")
class Masked(keras.constraints.Constraint):
    def __init__(self, shape):
        self.mask = np.ones(shape, "float32")

    def __call__(self, x):
        return x * self.mask

    def get_config(self):
        return {"shape": list(self.mask.shape)}


MADE = {
    "constant": lambda: [layers.Dense(16, kernel_initializer=_array(8, 16), bias_initializer=_array(16))],
    "identity": lambda: [layers.Dense(8, kernel_initializer="identity"), layers.Dense(16)],
    "read": lambda: [layers.Dense(16), layers.Dense(12, kernel_initializer=_array(16, 12))],
    "norm": lambda: [
        layers.Dense(16, kernel_initializer="random_normal"),
        layers.BatchNormalization(gamma_initializer=_array(16), moving_mean_initializer=_array(16)),
    ],
    "own": lambda: [layers.Dense(16, bias_initializer=OneShape())],
    "broadcast": lambda: [layers.Dense(16, bias_initializer=_array(1, 16))],
    "prelu": lambda: [layers.Dense(16), layers.PReLU(alpha_initializer=_array(16))],
    "conv": lambda: [
        layers.Reshape((4, 2)), layers.Conv1D(16, 1, kernel_initializer=_array(1, 2, 16)), layers.GlobalMaxPooling1D(),
    ],
    "lstm": lambda: [
        layers.Reshape((4, 2)), layers.LSTM(16, kernel_initializer=_array(2, 64)),
    ],
    "wrapped": lambda: [
        layers.Reshape((4, 2)), layers.TimeDistributed(layers.Dense(16, bias_initializer=_array(16))), layers.Flatten(),
    ],
}  # fmt: skip


def _model(name):
    x = inputs = keras.Input((8,))
    for layer in MADE[name]():
        x = layer(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    for weight in model.weights:
        weight.assign(rng.uniform(0.1, 1.0, weight.shape))
    return model


x = rng.normal(size=(5, 8)).astype("float32")


def _reads_back(model, tmp_path):
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name", [n for n in MADE if n != "broadcast"])
def test_a_smaller_layer_does_not_ask_for_the_old_arrays(name, tmp_path):
    from oracle import assert_pruned_equals_masked

    _, _, smaller = assert_pruned_equals_masked(_model(name), share=0.5, inputs=x)
    _reads_back(smaller, tmp_path)


@pytest.mark.parametrize("name", ["constant", "read", "norm", "own"])
def test_other_surgery_takes_them_too(name, tmp_path):
    model = _model(name)
    first = next(layer.name for layer in model.layers if isinstance(layer, layers.Dense))
    wide = surgery.widen(model, first, 24).model
    np.testing.assert_allclose(wide(x), model(x), rtol=1e-4, atol=1e-4)
    _reads_back(wide, tmp_path)
    plan = surgery.plan_channels(model, 0.5)
    assert surgery.apply(wide, surgery.plan_channels(wide, 0.5)).count_params() < wide.count_params()
    again = surgery.apply(model, plan)
    _reads_back(surgery.optimize_inference(again).model, tmp_path)


def test_merged_and_factorized_layers_take_them(tmp_path):
    x_in = keras.Input((8,))
    y = layers.Dense(16, kernel_initializer=_array(8, 16), bias_initializer=_array(16))(x_in)
    model = keras.Model(x_in, layers.Dense(3, kernel_initializer=_array(16, 3), bias_initializer=_array(3))(y))
    for edited in (surgery.merge_linear(model), surgery.factorize(model, rank=2)):
        _reads_back(edited.model, tmp_path)
        assert edited.model.count_params() < model.count_params()


@pytest.mark.parametrize("what", ["regularizer", "constraint"])
def test_what_holds_the_old_shape_is_left_out_with_a_warning(what, tmp_path):
    made = {"regularizer": Weighted, "constraint": Masked}[what]((8, 16))
    kept = {"regularizer": keras.regularizers.L2(0.1), "constraint": keras.constraints.NonNeg()}[what]
    dense = layers.Dense(16, **{f"kernel_{what}": made, f"bias_{what}": kept}, name="held")
    model = keras.Model(i := keras.Input((8,)), layers.Dense(3)(dense(i)))
    with pytest.warns(UserWarning, match=rf"held/kernel: its {what} .*was left out"):
        smaller = surgery.apply(model, surgery.plan_channels(model, 0.5))
    layer = smaller.get_layer("held")
    assert getattr(layer, f"kernel_{what}") is None
    assert type(getattr(layer, f"bias_{what}")) is type(kept)
    smaller.compile("sgd", "mse")
    before = smaller.get_weights()[0].copy()
    smaller.fit(x, np.zeros((5, 3)), verbose=0)
    assert not np.allclose(before, smaller.get_weights()[0])
    _reads_back(smaller, tmp_path)
