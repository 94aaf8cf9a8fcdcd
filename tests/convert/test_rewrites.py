"""Each rewrite computes what the layer computes, and reaches an all-integer file."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from sweeps import sweep

from tfstruct.convert import Converter, Recipe, rewrites
from tfstruct.errors import ModelError
from tfstruct.graph.layer_tree import layer_paths


def _model(*stack, shape=(6, 6, 8)):
    x = inputs = keras.Input(shape, name="x")
    for layer in stack:
        x = layer(x)
    return zoo.randomise(keras.Model(inputs, x))


# name -> (the rewrite as a function model -> model, the model)
CASES = {
    "lstm": (rewrites.unroll_recurrent, lambda: zoo.build("lstm")),
    "gru": (rewrites.unroll_recurrent, lambda: zoo.build("gru")),
    "bidirectional": (rewrites.unroll_recurrent, lambda: zoo.build("bidirectional")),
    "simple_rnn": (
        rewrites.unroll_recurrent,
        lambda: _model(layers.SimpleRNN(4, return_sequences=True), layers.GRU(3, reset_after=False), shape=(6, 4)),
    ),
    "go_backwards": (rewrites.unroll_recurrent, lambda: _model(layers.LSTM(3, go_backwards=True), shape=(5, 4))),
    "stacked_cells": (
        rewrites.unroll_recurrent,
        lambda: _model(layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)]), shape=(5, 4)),
    ),
    "conv_lstm": (rewrites.unroll_recurrent, lambda: _model(layers.ConvLSTM2D(2, 3), shape=(3, 5, 5, 2))),
    "layer_norm": (rewrites.integer_layers, lambda: _model(layers.LayerNormalization(axis=[1, 2]))),
    "layer_norm_plain": (
        rewrites.integer_layers,
        lambda: _model(layers.LayerNormalization(center=False, scale=False, epsilon=0.1)),
    ),
    "group_norm": (rewrites.integer_layers, lambda: _model(layers.GroupNormalization(4))),
    "group_norm_first": (
        rewrites.integer_layers,
        lambda: _model(layers.GroupNormalization(2, axis=1, scale=False), shape=(4, 6, 5)),
    ),
    "rms_norm": (rewrites.integer_layers, lambda: _model(layers.RMSNormalization())),
    "unit_norm": (rewrites.integer_layers, lambda: _model(layers.UnitNormalization())),
    "prelu": (rewrites.integer_layers, lambda: _model(layers.PReLU(shared_axes=[1, 2]))),
    "elu_layer": (rewrites.integer_layers, lambda: _model(layers.ELU(0.5))),
    "conv3d_same": (
        rewrites.integer_layers,
        lambda: _model(layers.Conv3D(4, 3, strides=2, padding="same", activation="relu"), shape=(7, 6, 5, 3)),
    ),
    "conv3d_valid": (
        rewrites.integer_layers,
        lambda: _model(layers.Conv3D(4, (2, 3, 1), strides=(2, 1, 1), use_bias=False), shape=(6, 6, 5, 3)),
    ),
    "conv3d_dilated": (
        rewrites.integer_layers,
        lambda: _model(layers.Conv3D(4, (3, 2, 2), dilation_rate=(2, 1, 2)), shape=(7, 6, 5, 3)),
    ),
    "up1": (rewrites.integer_layers, lambda: _model(layers.UpSampling1D(3), shape=(6, 4))),
    "up2": (rewrites.integer_layers, lambda: _model(layers.UpSampling2D((2, 3)))),
    "up3": (rewrites.integer_layers, lambda: _model(layers.UpSampling3D((2, 1, 3)), shape=(3, 2, 4, 2))),
    "embedding": (rewrites.integer_layers, lambda: zoo.build("embedding")),
    "elu": (rewrites.integer_activations, lambda: _model(layers.Conv2D(4, 3, activation="elu"))),
    "selu": (rewrites.integer_activations, lambda: _model(layers.Dense(4, activation="selu"))),
    "mish": (rewrites.integer_activations, lambda: _model(layers.Conv2D(4, 3), layers.Activation("mish"))),
}


# Other forms of what the rest has once.
SLOW = {
    "gru",
    "go_backwards",
    "layer_norm_plain",
    "group_norm_first",
    "conv3d_valid",
    "conv3d_dilated",
    "bidirectional",
}


@pytest.fixture(scope="module", params=sweep(sorted(CASES), set(CASES) - SLOW))
def case(request):
    rewrite, build = CASES[request.param]
    keras.utils.set_random_seed(0)
    model = build()
    return rewrite, model, zoo.sample_inputs(model, 100, seed=2)


@pytest.mark.sweep(9)
def test_the_rewritten_copy_computes_the_same(case):
    rewrite, model, x = case
    copy = rewrite(model)
    want = model.predict(x, verbose=0)
    np.testing.assert_allclose(copy.predict(x, verbose=0), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    changed = [
        (path, layer)
        for path, layer in layer_paths(copy).items()
        if type(layer).__module__ == rewrites.__name__
        or getattr(layer, "unroll", False)
        or getattr(getattr(layer, "activation", None), "__module__", "") == rewrites.__name__
    ]
    assert changed
    # The original is as it was.
    assert not any(type(layer).__module__ == rewrites.__name__ for layer in layer_paths(model).values())
    assert not any(getattr(layer, "unroll", False) for layer in layer_paths(model).values())


@pytest.mark.sweep(6)
def test_the_file_is_all_integer_and_names_the_rewrite(case, process):
    _, model, x = case
    with Converter(model, process=process) as converter:
        report = converter.convert(Recipe(precision="int8", calibration=x, check_range=False)).report
    assert report.float_operators == ()
    assert report.rewrites and all(line.split()[0] in str(report) for line in report.rewrites)
    assert report.verification.outputs[0].sqnr_db > 25
    assert not any("call" in layer.__dict__ for layer in layer_paths(model).values())


@pytest.mark.parametrize("own", [rewrites.elu, rewrites.selu, rewrites.mish])
def test_activations_over_their_whole_range(own):
    x = np.concatenate([np.linspace(-20, 20, 2001), [-1e-6, 0, 1e-6]]).astype("float32")
    want = np.asarray(getattr(keras.activations, own.__name__)(x))
    np.testing.assert_allclose(np.asarray(own(x)), want, rtol=1e-5, atol=2e-6)


def test_no_tile_and_no_select_in_the_file(process):
    for model, gone in (
        (_model(layers.UpSampling2D(2)), "TILE"),
        (_model(layers.UpSampling1D(2), shape=(6, 4)), "TILE"),
        (zoo.build("embedding"), "SELECT"),
    ):
        recipe = Recipe(precision="int8", calibration=zoo.sample_inputs(model, 100), check_range=False)
        with Converter(model, process=process) as converter:
            counts = [converter.convert(recipe.replace(rewrite=r)).report.operator_counts() for r in (True, False)]
        assert gone not in counts[0] and gone in counts[1]


def test_float_files_are_not_rewritten(process):
    with Converter(zoo.build("attention"), process=process) as converter:
        assert converter.convert(Recipe()).report.rewrites == ()


def test_long_sequences_stay_loops():
    model = _model(layers.LSTM(2), shape=(rewrites.MOST_STEPS + 1, 3))
    assert not rewrites.any_apply(layer_paths(model))
    assert rewrites.any_apply(layer_paths(_model(layers.LSTM(2), shape=(rewrites.MOST_STEPS, 3))))


def test_subclassed_models_are_rewritten_in_place_for_the_trace(process):
    @keras.saving.register_keras_serializable("tests.rewrites")
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.cell, self.norm = layers.LSTM(4, name="cell"), layers.LayerNormalization(name="norm")

        def call(self, x):
            return self.norm(self.cell(x))

    model = Own()
    x = np.random.default_rng(0).normal(size=(100, 5, 3)).astype("float32")
    before = model.predict(x, verbose=0)
    with Converter(model, process=process) as converter:
        report = converter.convert(Recipe(precision="int8", calibration=x)).report
    assert report.rewrites == ("cell unrolled", "norm in integer operators")
    assert report.float_operators == ()
    assert type(model.norm) is layers.LayerNormalization and not model.cell.unroll
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    with pytest.raises(ModelError, match="subclassed and cannot be copied"):
        rewrites.unroll_recurrent(model)


def test_nested_and_shared_layers():
    norm = layers.LayerNormalization(name="norm")
    block = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="elu"), norm], name="block")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = zoo.randomise(keras.Model([a, b], block(a) + norm(block(b))))
    x = zoo.sample_inputs(model, 5)
    for rewrite in (rewrites.integer_layers, rewrites.integer_activations):
        np.testing.assert_allclose(
            rewrite(model).predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("kind", [keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN])
@pytest.mark.sweep(1)
def test_dropout_of_cells_leaves_no_states_in_the_file(kind, process):
    """Keras's cells draw masks in inference too, and a file then holds the state of their random numbers."""
    inputs = keras.Input((4, 3))
    h = keras.layers.Bidirectional(kind(4, dropout=0.3, recurrent_dropout=0.2, return_sequences=True))(inputs)
    model = keras.Model(inputs, kind(5, dropout=0.3)(h))
    x = np.random.default_rng(0).normal(size=(110, 4, 3)).astype("float32")
    with Converter(model, process=process) as converter:
        for recipe in (Recipe(verification=x), Recipe("int8", calibration=x)):
            made = converter.convert(recipe)
            assert not {"VAR_HANDLE", "CALL_ONCE"} & set(made.report.operator_counts())
            assert made.report.verification.outputs[0].sqnr_db > 25
    assert [layer.cell.dropout for layer in (model.layers[1].forward_layer, model.layers[2])] == [0.3, 0.3]
