"""The ranges of a file against the Keras model's own values."""

import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct.convert import calibrate
from tfstruct.precisions import CALIBRATORS
from tfstruct.quantize.calibrators import Histogram, MinMax, calibrator_of


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="x")
    hidden = keras.layers.Dense(8, activation="relu", bias_initializer="normal", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, bias_initializer="normal", name="head")(hidden))


@pytest.fixture(scope="module")
def content(model):
    with tempfile.TemporaryDirectory() as folder:
        signature = [tf.TensorSpec((1, 6), "float32", name="x")]
        model.export(folder, format="tf_saved_model", verbose=False, input_signature=signature)
        return tf.lite.TFLiteConverter.from_saved_model(folder).convert()


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(1, 6)) * 1.1**i).astype(np.float32) for i in range(40)]


@pytest.fixture(scope="module")
def values(model, inputs):
    """The value of every tensor by sample, from Keras: the input, after the ReLU, the output."""
    inner = keras.Model(model.inputs, [model.inputs[0], model.get_layer("hidden").output, model.outputs[0]])
    return [[np.asarray(v) for v in inner([x])] for x in inputs]


def test_activations_of_a_file(content):
    names = calibrate.activation_names(content)
    assert len(names) == len(set(names)) == 3
    assert "hidden" in names[1]


@pytest.mark.parametrize("name", CALIBRATORS)
def test_ranges_of_a_file(name, content, inputs, values):
    make = calibrator_of(name, percentile=95.0)
    done = []
    got = calibrate.ranges(content, ({"x": x} for x in inputs), make, done.append)
    assert list(got) == calibrate.activation_names(content)
    assert done == list(range(1, 41))
    for i, (low, high) in enumerate(got.values()):
        expected = make()
        for sample in values:
            expected.update(sample[i])
        ends = expected.range()
        # Values differ in the last bits, so one may fall into the bin next to it.
        atol = 2 * expected.limit / expected.bins if isinstance(expected, Histogram) else 1e-5
        np.testing.assert_allclose((low, high), (min(ends[0], 0), max(ends[1], 0)), rtol=1e-5, atol=atol)


def test_minmax_ranges_of_a_file_are_the_keras_models(content, inputs, values):
    got = calibrate.ranges(content, ({"x": x} for x in inputs), MinMax)
    for i, (low, high) in enumerate(got.values()):
        every = np.concatenate([sample[i].ravel() for sample in values])
        np.testing.assert_allclose((low, high), (min(every.min(), 0), every.max()), rtol=1e-5)
    assert [low == 0 for low, _ in got.values()] == [False, True, False]  # the ReLU's output only


@pytest.mark.parametrize("name", CALIBRATORS)
@pytest.mark.parametrize("sign", [1, -1])
def test_every_range_includes_zero(name, sign, content):
    rng = np.random.default_rng(1)
    samples = [{"x": sign * rng.uniform(2, 3, (1, 6)).astype(np.float32)} for _ in range(10)]
    got = calibrate.ranges(content, samples, calibrator_of(name))
    low, high = got[calibrate.activation_names(content)[0]]
    assert (low == 0.0 and 2 < high <= 3) if sign > 0 else (high == 0.0 and -3 <= low < -2)
    assert all(low <= 0.0 <= high for low, high in got.values())


@pytest.mark.parametrize("name", CALIBRATORS)
def test_tensors_that_were_never_seen_have_no_range(name, content):
    assert calibrate.ranges(content, [], calibrator_of(name)) == {}
