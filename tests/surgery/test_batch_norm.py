"""Statistics measured anew, against NumPy."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers

from tfstruct.errors import DataError, ModelError
from tfstruct.surgery import recalibrate_batch_norm


def _data(n=40):
    return np.random.default_rng(0).normal(2.0, 3.0, (n, 5)).astype("float32")


def _net(shared=False):
    inputs = keras.Input((5,))
    norm = layers.BatchNormalization(name="bn")
    x = norm(inputs)
    x = norm(layers.Dropout(0.5)(x)) if shared else layers.Dropout(0.5)(x)
    return zoo.randomise(keras.Model(inputs, layers.Dense(2)(x)))


@pytest.mark.parametrize("batch_size", [40, 8, 7])
def test_the_mean_and_variance_of_all_data(batch_size):
    model, x = _net(), _data()
    assert recalibrate_batch_norm(model, x, batch_size=batch_size) == 1
    norm = model.get_layer("bn")
    np.testing.assert_allclose(norm.moving_mean, x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, x.var(axis=0), rtol=1e-5)


def test_a_shared_layer_sees_both_calls():
    model, x = _net(shared=True), _data()
    gamma, beta = model.get_layer("bn").get_weights()[:2]
    recalibrate_batch_norm(model, x, batch_size=40)
    second = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-3) * gamma + beta
    both = np.concatenate([x, second])
    expected = (x.var(axis=0) + x.mean(axis=0) ** 2 + second.var(axis=0) + second.mean(axis=0) ** 2) / 2
    np.testing.assert_allclose(model.get_layer("bn").moving_mean, both.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(model.get_layer("bn").moving_variance, expected - both.mean(axis=0) ** 2, rtol=1e-4)


def test_nothing_else_changes_and_frozen_layers_take_part():
    model, x = _net(), _data()
    norm = model.get_layer("bn")
    norm.trainable = False
    others = [w for w in model.weights if "moving" not in w.name]
    before = [w.numpy() for w in others]
    recalibrate_batch_norm(model, x)
    assert all((a == b.numpy()).all() for a, b in zip(before, others, strict=True))
    assert (norm.trainable, norm.momentum, "call" in vars(norm)) == (False, 0.99, False)
    np.testing.assert_allclose(norm.moving_mean, x.mean(axis=0), rtol=1e-4)


@pytest.mark.parametrize("kind", ["dataset", "pairs", "generator"])
def test_data_of_any_kind(kind):
    import tensorflow as tf

    model, x = _net(), _data()
    data = {
        "dataset": tf.data.Dataset.from_tensor_slices(x).batch(8),
        "pairs": tf.data.Dataset.from_tensor_slices((x, np.zeros(40))).batch(8),
        "generator": (x[i : i + 8] for i in range(0, 40, 8)),
    }[kind]
    recalibrate_batch_norm(model, data, steps=2)
    np.testing.assert_allclose(model.get_layer("bn").moving_mean, x[:16].mean(axis=0), rtol=1e-5)


def test_subclassed_models_too():
    model = zoo.build("subclassed")
    x = zoo.sample_inputs(model, 8)
    recalibrate_batch_norm(model, x)
    np.testing.assert_allclose(model.norm.moving_mean, np.mean(model.conv(x), axis=(0, 1, 2)), rtol=1e-4)


def test_bad_input_leaves_the_statistics():
    model = _net()
    before = model.get_layer("bn").moving_mean.numpy()
    with pytest.raises(DataError, match="holds no samples"):
        recalibrate_batch_norm(model, iter([]))
    with pytest.raises(DataError, match="received int"):
        recalibrate_batch_norm(model, 3)
    with pytest.raises(ValueError, match="shape"):
        recalibrate_batch_norm(model, np.zeros((4, 9), "float32"))
    np.testing.assert_array_equal(model.get_layer("bn").moving_mean, before)
    assert "call" not in vars(model.get_layer("bn"))
    with pytest.raises(ModelError, match="no BatchNormalization"):
        recalibrate_batch_norm(zoo.build("attention"), np.zeros((1, 6, 8)))


@pytest.mark.parametrize("kind", ["pair", "alone", "weights", "list", "dict", "batches", "batches_of_samples", "steps"])
def test_labels_are_no_samples(kind):
    import tensorflow as tf

    x = np.random.default_rng(0).normal(2.0, 1.0, (64, 8)).astype("float32")
    y, w = x + 100, np.ones(64)
    inputs = keras.Input((8,), name="in")
    model = keras.Model(inputs, layers.BatchNormalization(name="norm")(inputs))
    data = {
        "pair": (x, y),
        "alone": (x,),
        "weights": (x, y, w),
        "list": ([x], y),
        "dict": ({"in": x}, y),
        "batches": tf.data.Dataset.from_tensor_slices((x, y, w)).batch(16),
        "batches_of_samples": [x],
        "steps": tf.data.Dataset.from_tensor_slices((x, y)).batch(16).repeat(),
    }[kind]
    recalibrate_batch_norm(model, data, steps=4 if kind == "steps" else None)
    np.testing.assert_allclose(model.get_layer("norm").moving_mean, x.mean(0), rtol=1e-4)
    if kind == "steps":
        with pytest.raises(DataError, match="without end"):
            recalibrate_batch_norm(model, data)


def test_statistics_that_are_no_numbers_are_left_behind():
    model, x = _net(), _data()
    norm = model.get_layer("bn")
    norm.moving_mean.assign(np.full(5, np.nan))
    norm.moving_variance.assign(np.full(5, np.inf))
    recalibrate_batch_norm(model, x)
    np.testing.assert_allclose(norm.moving_mean, x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, x.var(axis=0), rtol=1e-4)
