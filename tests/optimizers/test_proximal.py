"""Proximal operators against NumPy, and where their optimizers come to rest."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_rows import filters, soft

from tfstruct import optimizers
from tfstruct.errors import ModelError
from tfstruct.graph import trace
from tfstruct.optimizers import proximal
from tfstruct.surgery import shrink

layers = keras.layers


def variable(*shape, name="kernel", seed=0):
    return keras.Variable(np.random.default_rng(seed).normal(size=shape).astype("float32"), name=name)


def proxed(penalty, variables, step_size):
    values = [v.value for v in variables]
    return [np.asarray(x) for x in penalty.bind(variables).prox(values, step_size)]


def test_soft_threshold_by_hand():
    w = keras.Variable([[3.0, -0.5], [-2.0, 1.0]], name="kernel")
    (new,) = proxed(proximal.L1(2.0), [w], 0.5)
    np.testing.assert_array_equal(new, [[2.0, 0.0], [-1.0, 0.0]])


def test_l1_leaves_biases_and_scales_alone():
    kept = [variable(4, name="bias"), variable(4, name="gamma"), variable(3, 3, name="kernel")]
    new = proxed(proximal.L1(1e9), kept, 1.0)
    np.testing.assert_array_equal(new[0], kept[0].numpy())
    np.testing.assert_array_equal(new[1], kept[1].numpy())
    assert not new[2].any()
    (bias, *_) = proxed(proximal.L1(1e9, variables=["bias"]), kept, 1.0)
    assert not bias.any()


def test_filters_by_hand_and_numpy():
    w = keras.Variable([[3.0, 0.3], [4.0, 0.4]], name="kernel")  # filters of norm 5 and 0.5; the threshold is 0.5 * 2
    (new,) = proxed(proximal.Filters(0.5), [w], np.sqrt(2.0))
    np.testing.assert_allclose(new, [[2.4, 0.0], [3.2, 0.0]], rtol=1e-6)
    assert (new[:, 1] == 0).all()
    conv = variable(3, 3, 4, 6)
    (new,) = proxed(proximal.Filters(0.97), [conv], 1.0)
    np.testing.assert_allclose(new, filters(conv.numpy(), 0.97), rtol=1e-5, atol=1e-6)
    assert 0 < (new == 0).all((0, 1, 2)).sum() < 6
    (other,) = proxed(proximal.Filters(0.97, axis=-2), [conv], 1.0)
    expected = np.swapaxes(filters(np.swapaxes(conv.numpy(), -1, -2), 0.97), -1, -2)
    np.testing.assert_allclose(other, expected, rtol=1e-5, atol=1e-6)


def test_filters_that_are_zero_stay_numbers():
    w = keras.Variable(np.zeros((2, 2), "float32"), name="kernel")
    (new,) = proxed(proximal.Filters(0.0), [w], 1.0)
    np.testing.assert_array_equal(new, 0)


def test_n_of_m():
    w = keras.Variable([[1.0], [-3.0], [2.0], [2.0], [5.0]], name="kernel")
    (new,) = proxed(proximal.NM(2, 4), [w], 1.0)  # of the equal ones the first stays; the last block has one
    np.testing.assert_array_equal(new, [[0.0], [-3.0], [2.0], [0.0], [5.0]])
    conv = variable(3, 3, 8, 5)
    (new,) = proxed(proximal.NM(1, 4), [conv], 1.0)
    size = np.abs(conv.numpy()).reshape(3, 3, 2, 4, 5)
    expected = np.where(size == size.max(3, keepdims=True), conv.numpy().reshape(size.shape), 0).reshape(conv.shape)
    np.testing.assert_array_equal(new, expected)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_rests_where_lasso_does(momentum):
    rng = np.random.default_rng(0)
    a, y = rng.normal(size=(30, 8)), rng.normal(size=30)
    strength, expected = 6.0, np.zeros((8, 1))
    rate = 1 / np.linalg.eigvalsh(a.T @ a).max()
    for _ in range(5000):
        expected = soft(expected - rate * a.T @ (a @ expected - y[:, None]), rate * strength)
    w = variable(8, 1)
    optimizer = optimizers.ProximalSGD(proximal.L1(strength), 0.5 * float(rate), momentum=momentum)
    optimizer.build([w])
    x, target = tf.constant(a, "float32"), tf.constant(y[:, None], "float32")

    @tf.function
    def run():
        for _ in tf.range(1500):
            optimizer.apply([tf.matmul(x, tf.matmul(x, w.value) - target, transpose_a=True)], [w])

    run()
    np.testing.assert_allclose(w.numpy(), expected, atol=1e-4)
    assert 0 < (expected == 0).sum() < 8
    np.testing.assert_array_equal(w.numpy() == 0, expected == 0)


def test_penalties_come_in_order():
    w = variable(6, 5)
    optimizer = optimizers.ProximalSGD([proximal.L1(0.4), proximal.Filters(1.0)], learning_rate=0.5)
    before = w.numpy()
    optimizer.apply([tf.zeros((6, 5))], [w])
    np.testing.assert_allclose(w.numpy(), filters(soft(before, 0.2), 0.5), rtol=1e-5, atol=1e-6)


def test_zeros_are_zero_in_the_moving_average():
    w = keras.Variable([[3.0, 0.05]], name="kernel")
    optimizer = optimizers.ProximalSGD(proximal.L1(0.2), 0.1, use_ema=True, ema_momentum=0.9)
    for _ in range(4):
        optimizer.apply([tf.zeros((1, 2))], [w])
    optimizer.finalize_variable_values([w])
    assert w.numpy()[0, 1] == 0
    assert 2.9 < w.numpy()[0, 0] < 3.0


def test_a_constraint_has_the_last_word():
    w = keras.Variable(np.full((2, 2), -1.0, "float32"), name="kernel")
    w.constraint = keras.constraints.NonNeg()
    optimizers.ProximalSGD(proximal.L1(1.0), 0.1).apply([tf.zeros((2, 2))], [w])
    np.testing.assert_array_equal(w.numpy(), 0)


# Channel groups


def residual(names=("stem", "a", "b", "norm", "out")):
    keras.utils.set_random_seed(3)
    stem, a, b, norm, out = names
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(6, 3, padding="same", name=stem)(inputs)
    y = layers.ReLU()(layers.BatchNormalization(name=norm)(layers.Conv2D(5, 3, padding="same", name=a)(x)))
    y = layers.Conv2D(6, 3, padding="same", name=b)(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    model = keras.Model(inputs, layers.Dense(3, name=out)(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(0)
    for v in model.weights:
        v.assign(np.abs(rng.normal(size=v.shape)) + 0.1 if "variance" in v.name else rng.normal(size=v.shape))
    return model


def channel(model, parts, c):
    """All weights of channel c, by layer and weight."""
    return [model.get_layer(layer).__getattribute__(name).numpy()[..., c] for layer, name in parts]


STREAM = (("stem", "kernel"), ("stem", "bias"), ("b", "kernel"), ("b", "bias"))
INNER = (("a", "kernel"), ("a", "bias"), ("norm", "gamma"), ("norm", "beta"))


def test_channel_groups_against_numpy():
    model = residual()
    norms = {
        (parts, c): np.sqrt(np.mean(np.concatenate([w.ravel() for w in channel(model, parts, c)]) ** 2))
        for parts, width in ((STREAM, 6), (INNER, 5)) for c in range(width)
    }  # fmt: skip
    before = {key: channel(model, *key) for key in norms}
    untouched = model.get_layer("out").kernel.numpy()
    threshold = float(np.median(list(norms.values())))
    optimizer = optimizers.ProximalSGD(proximal.ChannelGroups(model, threshold), learning_rate=1.0)
    optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
    for key, norm in norms.items():
        for old, new in zip(before[key], channel(model, *key), strict=True):
            np.testing.assert_allclose(new, max(0, 1 - threshold / norm) * old, rtol=1e-4, atol=1e-5)
    zero = sum(not any(np.any(w) for w in channel(model, *key)) for key in norms)
    assert zero == 6  # the median and the five below it: exactly
    np.testing.assert_array_equal(model.get_layer("out").kernel.numpy(), untouched)
    smaller = shrink(model).model  # certifies that the outputs are equal
    assert smaller.count_params() < model.count_params()
    graph = trace(smaller)
    assert sum(len(graph.makes[name]) for name in ("stem", "a")) == 11 - zero


def test_channel_groups_are_found_again_by_path_or_position():
    model, renamed = residual(), residual(("s", "p", "q", "n", "o"))
    penalty = proximal.ChannelGroups(model, 100.0)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(penalty))
    assert again.units == penalty.units
    values = [v.value for v in renamed.trainable_variables]
    for a, b in zip(
        proxed(penalty, model.trainable_variables, 0.1), proxed(again, renamed.trainable_variables, 0.1), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    reordered = again.bind(list(reversed(model.trainable_variables)))  # by path
    for a, b in zip(
        reordered.prox([v.value for v in reversed(model.trainable_variables)], 0.1),
        reversed(proxed(penalty, model.trainable_variables, 0.1)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert len(values) == 10
    with pytest.raises(ValueError, match=r"found in another model.*8 variables.*not among them.*s/kernel|stem/kernel"):
        again.bind(renamed.trainable_variables[:8])


def test_channel_groups_that_do_not_exist():
    model = residual()
    with pytest.raises(ModelError, match=r"Expected names of channel groups: stem, a, out. Received: 'nowhere'"):
        proximal.ChannelGroups(model, groups=["nowhere"])
    with pytest.raises(ModelError, match=r"Group 'out' has no channels"):
        proximal.ChannelGroups(model, groups=["out"])
    model.get_layer("b").trainable = False  # then the whole residual stream stays
    assert proximal.ChannelGroups(model).units.groups == (("a", 5),)


def test_units_do_not_overlap_in_attention():
    inputs = keras.Input((5, 6))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Dense(7, activation="relu", name="hidden")(x)))
    units = proximal.ChannelGroups(model).units
    assert dict(units.groups)["attention.heads"] == 2
    assert "attention.key_dim" not in dict(units.groups)
    assert dict(units.groups)["hidden"] == 7
