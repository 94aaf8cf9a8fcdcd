"""What every layer of `tfstruct.layers` has to do."""

import inspect

import contracts
import keras
import numpy as np
import pytest
from layer_rows import IMAGES, NOISE, ROWS, SEQUENCES, WRAPPERS

import tfstruct.layers
from tfstruct.layers import DropConnect, StochasticDepth, finalize
from tfstruct.surgery import remove_redundant

kl = keras.layers
X = np.random.default_rng(0).normal(size=(5, 8, 8, 2)).astype("float32")


def build(name: str) -> keras.Model:
    layer = ROWS[name]()
    if name in SEQUENCES:
        return contracts.network(kl.Reshape((64, 8)), layer, kl.Reshape((8, 8, 8)))
    return contracts.network(layer)


def ours(model: keras.Model) -> kl.Layer:
    return next(layer for layer in model.layers if type(layer).__module__.startswith("tfstruct"))


def test_every_public_layer_is_a_row():
    public = [getattr(tfstruct.layers, name) for name in tfstruct.layers.__all__]
    classes = {x for x in public if inspect.isclass(x) and issubclass(x, kl.Layer)}
    assert classes == {type(make()) for make in ROWS.values()}


FAST = {"tape": list(ROWS), "mixed_float16": ["DropConnect", "VariationalDropout", "DropBlock2D"],
        "jit": [], "mirrored": ["StochasticDepth"], "fit": ["HardConcrete"]}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "way"),
    [
        pytest.param(name, way, marks=[] if name in FAST[way] else pytest.mark.slow)
        for way in contracts.WAYS
        for name in ROWS
    ],
)
@pytest.mark.sweep(6)
def test_learns(name, way, second_device):
    model = contracts.assert_learns(lambda: build(name), way)
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.sweep(5)
def test_resumes_with_the_draws_of_an_uninterrupted_run(name, tmp_path):
    resumed = contracts.assert_resumes(lambda: build(name), tmp_path)
    # 8 steps drew once each; DropConnect and the like once a kernel.
    assert ours(resumed).seed_generator.state.numpy()[1] == 8


@pytest.mark.parametrize("name", ROWS)
def test_round_trip(name):
    contracts.round_trip(ROWS[name]())
    contracts.round_trip(ours(build(name)))


@pytest.mark.parametrize("name", NOISE)
def test_nothing_happens_in_inference(name):
    layer = NOISE[name]()
    np.testing.assert_array_equal(layer(X, training=False), X)
    assert np.abs(layer(X, training=True) - X).max() > 0 or name == "ScheduledDropout"
    assert layer(X.astype("float16")).dtype == "float32"  # as every Keras layer


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_is_the_layer_inside_in_inference(name):
    layer = WRAPPERS[name]()
    np.testing.assert_array_equal(layer(X), layer.layer(X))
    assert np.abs(layer(X, training=True) - layer.layer(X)).max() > 0
    plain = layer.inference_layer()
    assert type(plain) is kl.Conv2D and plain.name == layer.name
    np.testing.assert_array_equal(plain(X), layer(X))


@pytest.mark.parametrize("name", ROWS)
def test_equal_seeds_draw_equally_and_every_call_anew(name):
    model, other = build(name), build(name)
    if name == "ScheduledDropout":
        for one in (model, other):
            ours(one).step.assign(10)
    first = model(X, training=True)
    np.testing.assert_array_equal(first, other(X, training=True))
    assert np.abs(first - model(X, training=True)).max() > 1e-6


@pytest.mark.parametrize("name", ROWS)
def test_half_precision_in_half_precision_out(name):
    with contracts.policy("mixed_float16"):
        layer = ROWS[name]()
        x = X.reshape(5, 16, 8) if name in SEQUENCES else X
        for training in (False, True):
            assert layer(x, training=training).dtype == "float16"
        assert all(w.dtype != "float16" for w in layer.weights)


def plain_twin(model: keras.Model) -> keras.Model:
    """Of Keras's own layers only."""
    made = remove_redundant(finalize(model)).model
    assert all(type(layer).__module__.startswith("keras") for layer in made.layers)
    return made


@pytest.mark.parametrize("name", IMAGES)
def test_surgery_leaves_plain_layers(name):
    model = build(name)
    x, _ = contracts.data(32)
    made = plain_twin(model)
    if name == "MonteCarloDropout":
        ours(model).active_in_inference = False
    np.testing.assert_allclose(made(x), model(x), rtol=1e-5, atol=1e-5)


def test_what_the_layer_inside_assigns_is_kept():
    def moved(rate):
        inner = keras.Sequential([kl.Dense(3, kernel_initializer="ones"), kl.BatchNormalization(), kl.Dropout(0.5)])
        layer = DropConnect(inner, rate, seed=0)
        x = np.ones((4, 5), "float32")
        layer(x, training=True)
        return inner.layers[1].moving_mean.numpy(), inner.layers[2].seed_generator.state.numpy()[1]

    mean, draws = moved(0.0)
    np.testing.assert_allclose(mean, 0.01 * 5, rtol=1e-5)
    assert draws == 1
    mean, draws = moved(0.5)
    assert draws == 1
    assert np.isin(np.round(mean / 0.01 / 2, 3), np.arange(6)).all() and mean.any()


def test_recurrent_layers_and_embeddings_inside():
    rng = np.random.default_rng(0)
    lstm = DropConnect(kl.LSTM(4), 0.5, seed=0)
    x = rng.normal(size=(2, 5, 3)).astype("float32")
    assert np.abs(lstm(x, training=True) - lstm(x)).max() > 1e-4
    np.testing.assert_array_equal(lstm(x), lstm.layer(x))
    table = DropConnect(kl.Embedding(10, 4, mask_zero=True), 0.5, seed=0)
    words = np.array([[1, 2, 0]])
    assert np.mean(table(words, training=True) == 0) > 0
    assert table(words)._keras_mask.numpy().tolist() == [[True, True, False]]


def test_frozen_rates_need_no_masking_of_sequences():
    masked = kl.Masking()(np.array([[[1.0], [0.0]]], "float32"))
    assert StochasticDepth(0.5)(masked)._keras_mask is not None
