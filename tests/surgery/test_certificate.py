"""What counts as equal: not what rounding alone would tell apart."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstruct
from tfstruct.errors import ModelError, TfstructError
from tfstruct.graph import trace
from tfstruct.surgery import certificate


def model():
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, keras.layers.Dense(3, name="y")(inputs))


def answers(monkeypatch, *outputs):
    """Three runs at each of two scales: the original, the other, and the original on inputs changed by a rounding."""
    runs = iter([np.asarray(y, float)] for y in outputs)
    monkeypatch.setattr(certificate, "_run", lambda model, inputs: next(runs))


def test_a_scale_at_which_rounding_decides_is_left_out(monkeypatch):
    answers(monkeypatch, [1.0], [0.7], [0.6], [100.0], [100.0], [100.0])
    found = certificate.difference(trace(model()), model())
    assert (found.relative, found.allowed) == (0.0, 1e-5)
    certificate.certify(found, "calm at large inputs")


def test_a_difference_at_a_calm_scale_is_an_error(monkeypatch):
    answers(monkeypatch, [1.0], [0.7], [0.6], [100.0], [99.0], [100.0])
    found = certificate.difference(trace(model()), model())
    assert found.relative == pytest.approx(0.01)
    with pytest.raises(TfstructError, match="differs from the original"):
        certificate.certify(found, "wrong")


def test_nothing_is_waved_through_where_no_scale_is_calm(monkeypatch):
    answers(monkeypatch, [1.0], [0.7], [0.6], [1.0], [0.9], [0.5])
    with pytest.raises(TfstructError, match="differs from the original"):
        certificate.certify(certificate.difference(trace(model()), model()), "never calm")


def test_rounding_widens_what_is_allowed(monkeypatch):
    answers(monkeypatch, [1.0], [1.001], [1.0001], [1.0], [1.0], [1.0])
    found = certificate.difference(trace(model()), model())
    assert found.allowed == pytest.approx(32e-4)
    certificate.certify(found, "within rounding")


def runs(monkeypatch, model):
    """The inputs of every run of a certificate that compares a model with itself."""
    seen = []
    own = certificate._run
    monkeypatch.setattr(certificate, "_run", lambda model, inputs: (seen.append(inputs), own(model, inputs))[1])
    assert certificate.difference(trace(model), model).absolute == 0.0
    return seen


def test_equal_models_run_twice_at_each_scale(monkeypatch):
    first, again, large, last = runs(monkeypatch, model())
    assert first is again and large is last
    assert np.abs(large[0]).max() > 10 * np.abs(first[0]).max()


def test_ids_have_one_scale(monkeypatch):
    inputs = keras.Input((3,), dtype="int32")
    assert len(runs(monkeypatch, keras.Model(inputs, keras.layers.Embedding(5, 2)(inputs)))) == 2


@pytest.mark.parametrize(("work", "samples"), [(12 * 9, 4), (12 * 3, 3), (12 * 2 + 1, 2), (1, 1)])
def test_large_models_run_on_fewer_samples(monkeypatch, work, samples):
    monkeypatch.setattr(certificate, "_WORK", work)  # of multiply-accumulates, of which the model has 12 for a sample
    assert {len(x) for (x,) in runs(monkeypatch, model())} == {samples}


def test_open_sizes_run_on_four_samples(monkeypatch):
    inputs = keras.Input((None, None, 3))
    open_sizes = keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs))
    monkeypatch.setattr(certificate, "_WORK", 1)
    assert {x.shape for (x,) in runs(monkeypatch, open_sizes)} == {(4, 32, 32, 3)}


def noisy(noise):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), name="x")
    x = keras.layers.Dense(6, activation="relu", name="hidden")(inputs)
    x = keras.layers.Lambda(lambda x: x + noise(keras.ops.shape(x)))(keras.layers.Dense(5, name="second")(x))
    made = keras.Model(inputs, keras.layers.Dense(3, name="y")(x))
    kernel, bias = made.get_layer("hidden").get_weights()
    made.get_layer("hidden").set_weights([kernel * np.r_[0.0, 0.0, np.ones(4)], bias])
    return made


def test_random_numbers_of_keras_are_drawn_alike():
    assert len(tfstruct.shrink(noisy(keras.random.normal)).kept["hidden"]) == 4


def test_a_model_that_computes_something_else_each_time_is_called_so():
    with pytest.raises(ModelError, match="something else each time") as error:
        tfstruct.shrink(noisy(tf.random.normal))
    assert "keras.random" in str(error.value)
