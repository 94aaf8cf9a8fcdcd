"""Ranges of activations: followed, or learned."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct.quantize import Scheme
from tfstruct.quantize.fake import learned_activation
from tfstruct.quantize.ranges import Range

MAKE = functools.partial(keras.Variable, trainable=False, dtype="float32")


def followed(batches, frozen=0.0, **options) -> Range:
    found = Range(Scheme(**options), MAKE)
    for batch in batches:
        found.follow(tf.constant(batch, tf.float32), frozen)
    return found


def test_moving_average_and_widest():
    batches = [[-1.0, 2.0], [-3.0, 1.0], [0.5, 4.0]]
    low = high = None
    for a, b in batches:
        a = min(a, 0)
        low, high = (a, b) if low is None else (low + 0.1 * (a - low), high + 0.1 * (b - high))
    assert followed(batches, momentum=0.9).pair() == pytest.approx((low, high))
    assert followed(batches, ranges="minmax").pair() == (-3.0, 4.0)
    assert followed(batches, frozen=1.0).pair() == (-1.0, 2.0)  # the first one counts
    assert followed([]).pair() is None


def test_percentile():
    x = np.random.default_rng(0).normal(size=4000).astype("float32")
    x[7] = 1000
    low, high = followed([x], ranges="percentile", percentile=99.9).pair()
    wanted = np.percentile(x, [0.1, 99.9], method="nearest")
    np.testing.assert_allclose([low, high], wanted, rtol=1e-5)


def test_percentiles_look_at_few_values_of_a_batch_of_open_size(monkeypatch):
    x = (np.random.default_rng(0).permutation(20_001) - 10_000).astype("float32").reshape(-1, 3)
    found, sorted_, sort = Range(Scheme(ranges="percentile", percentile=90.0), MAKE), [], tf.sort

    def noted(values):
        sorted_.append(values)
        return sort(values)

    monkeypatch.setattr(tf, "sort", noted)

    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def follow(batch):
        found.follow(batch, 0.0)
        return tf.size(sorted_[-1])

    assert int(follow(x)) == 4096
    np.testing.assert_allclose(found.pair(), (-8000, 8000), atol=400)  # 4 standard deviations of a sample's percentile


def test_percentiles_see_every_channel():
    x = np.ones((64, 32, 32, 16), "float32") * np.arange(16, dtype="float32")
    assert followed([x], ranges="percentile", percentile=99.0).pair() == (0.0, 15.0)


def gradients(x, upstream, low, high, **options):
    seen = []
    value = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(value)
        y = learned_activation(value, low, high, lambda *d: seen.append([float(v) for v in d]), **options)
        loss = tf.reduce_sum(y * upstream)
    return y.numpy(), tape.gradient(loss, value).numpy(), seen[0]


def test_the_gradients_of_both_ends():
    low, high = -1.0, 1.55  # a step of 0.01
    x, upstream = [-3.0, -0.503, 0.004, 2.0, 9.0], [1.0, 2.0, 3.0, 4.0, 5.0]
    y, by_x, ends = gradients(x, upstream, low, high)
    np.testing.assert_allclose(y, [-1, -0.5, 0, 1.55, 1.55], atol=1e-6)
    np.testing.assert_array_equal(by_x, [0, 2, 3, 0, 0])
    error = (2 * 0.003 + 3 * -0.004) / 2.55
    scale = 1 / np.sqrt(255 * 5)
    np.testing.assert_allclose(ends, [(1 - error) * scale, (9 + error) * scale], rtol=1e-4)
    _, _, ends = gradients(x, upstream, low, high, clips_only=True)
    np.testing.assert_allclose(ends, [scale, 9 * scale], rtol=1e-5)


@pytest.mark.parametrize("ranges", ["learned", "pact"])
def test_ends_learn_where_values_are_rounded(ranges):
    x = tf.constant(np.random.default_rng(0).normal(size=1000), tf.float32)
    found = followed([x.numpy() / 2], ranges=ranges, learning_rate=0.01)
    before = found.pair()

    def step(learning):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(found.quantized(x, 8, learning))
        tape.gradient(loss, x)

    step(0.0)
    assert found.pair() == before
    for _ in range(20):
        step(1.0)
    # What is cut off above adds to the sum that is to fall, what is cut off below is missing in it.
    low, high = found.pair()
    assert low < 1.1 * before[0] and 0 < high < 0.9 * before[1]


def test_pact_decays():
    x = tf.constant([0.5, 1.0])
    found = followed([[0.0, 2.0]], ranges="pact", decay=0.1, learning_rate=0.01)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(found.quantized(x, 8, 1.0))
    tape.gradient(loss, x)
    found.quantized(x, 8, 1.0)  # makes the step
    assert found.pair() == pytest.approx((0.0, 2.0 * np.exp(-0.01)))  # nothing is clipped, so only the decay speaks
