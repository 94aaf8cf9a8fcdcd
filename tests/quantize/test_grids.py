"""Where weights may lie, against NumPy."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct.graph.kernels import Kernel
from tfstruct.quantize import Scheme
from tfstruct.quantize.grids import LearnedGrid, grid
from tfstruct.quantize.learning import Learned

MAKE = functools.partial(keras.Variable, trainable=False, dtype="float32")


def kernel(values) -> Kernel:
    values = np.asarray(values, "float32")
    shape = (int(np.prod(values.shape[:-2])), *values.shape[-2:])
    return Kernel("layer/kernel", keras.Variable(values), tuple(range(values.ndim)), shape)


def drawn(shape=(3, 3, 4, 5)) -> np.ndarray:
    w = np.random.default_rng(0).normal(size=shape).astype("float32")
    w[..., 2] = 0
    w[..., 3] *= 100
    return w


def of(values, precision="int8", stored=8, **options):
    return grid(kernel(values), Scheme(precision, **options), precision, stored, MAKE)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("per", ["channel", "layer"])
def test_largest_weight(bits, per):
    w = drawn()
    found = of(w, f"int{bits}", bits, per=per)
    top = 2 ** (bits - 1) - 1
    largest = np.abs(w).max((0, 1, 2))
    if per == "layer":
        largest[:] = largest.max()
    scale = np.maximum(largest, 1e-9) / top
    wanted = np.clip(np.round(w / scale), -top, top)
    np.testing.assert_allclose(found.fake(w), wanted * scale, rtol=1e-5, atol=1e-6)
    q, s = found.integers(w)
    np.testing.assert_array_equal(q, wanted)
    np.testing.assert_allclose(s, scale, rtol=1e-5)
    np.testing.assert_allclose(found.limits(), top * scale, rtol=1e-5)
    assert found.plain == (per == "channel")


def test_one_step_of_the_folded_kernel():
    w, g = drawn(), np.array([2.0, -0.5, 1.0, 0.01, 3.0], "float32")
    found = of(w, per="tensor")
    step = np.abs(w * g).max() / 127
    folded = np.clip(np.round(w * np.abs(g) / step), -127, 127) * step
    np.testing.assert_allclose(found.fake(w, g) * g, folded * np.sign(g), rtol=1e-4, atol=1e-5)
    q, s = found.integers(w, g)
    np.testing.assert_allclose(s * np.abs(g), np.full(5, step), rtol=1e-5)
    np.testing.assert_array_equal(q, np.round(w * np.abs(g) / step))


def test_a_channel_a_hundred_times_smaller_keeps_its_precision():
    w = np.random.default_rng(0).normal(size=(3, 3, 8, 1)).astype("float32")
    w[:, :, 3] /= 100
    depthwise = Kernel("layer/kernel", keras.Variable(w), (0, 1, 2, 3), (9, 1, 8))
    rounded = np.asarray(grid(depthwise, Scheme(), "int8", 8, MAKE).fake(w))
    small = w[:, :, 3]
    assert np.linalg.norm(rounded[:, :, 3] - small) / np.linalg.norm(small) < 0.01


def test_binary_ternary_and_two_bits():
    w = np.random.default_rng(0).normal(size=(1, 50, 3)).astype("float32")
    size, mean = np.abs(w), np.abs(w).mean((0, 1))
    np.testing.assert_allclose(of(w, "binary").fake(w), np.sign(w) * mean, rtol=1e-5)
    over = size > 0.7 * mean
    step = (size * over).sum((0, 1)) / over.sum((0, 1))
    np.testing.assert_allclose(of(w, "ternary").fake(w), np.sign(w) * over * step, rtol=1e-5)
    np.testing.assert_allclose(of(w, "int2").fake(w), np.clip(np.round(w / (2 * mean)), -2, 1) * 2 * mean, rtol=1e-5)
    whole = (size * (size > 0.7 * size.mean())).sum() / (size > 0.7 * size.mean()).sum()
    tied = of(w, "ternary", per="layer")
    np.testing.assert_allclose(np.unique(np.abs(tied.fake(w))), [0, whole], rtol=1e-5)
    np.testing.assert_allclose(of(w, "binary", stored=4).limits(), 7 * mean, rtol=1e-5)


def test_float16():
    w = drawn()
    np.testing.assert_array_equal(of(w, "float16").fake(w), w.astype("float16").astype("float32"))


@pytest.mark.parametrize("precision", ["int8", "int4", "int2", "ternary", "binary", "float16"])
def test_the_gradient_passes_straight_through(precision):
    w = tf.constant(drawn())
    found = of(w, precision)
    with tf.GradientTape() as tape:
        tape.watch(w)
        loss = tf.reduce_sum(found.fake(w) * 3.0)
    np.testing.assert_array_equal(tape.gradient(loss, w), np.full(w.shape, 3.0))


def test_the_gradient_of_a_learned_step():
    w = np.array([[[0.3], [-0.8], [5.0], [-9.0]]], "float32")
    found = of(w, "int4", 4, steps="learned")
    found.learned.variable.assign([0.5])
    seen = []
    found.learned.note = lambda gradient: seen.append(gradient.numpy())
    value = tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch(value)
        loss = tf.reduce_sum(found.fake(value, learning=1.0) * [[[1.0], [2.0], [3.0], [4.0]]])
    by_weight = tape.gradient(loss, value)
    # 0.6 -> 1, -1.6 -> -2, both inside; 10 and -18 are clipped to 7 and -7.
    np.testing.assert_allclose(np.ravel(by_weight), [1, 2, 0, 0])
    wanted = 1 * (1 - 0.6) + 2 * (-2 + 1.6) + 3 * 7 + 4 * -7
    np.testing.assert_allclose(seen, [[wanted / np.sqrt(4 * 7)]], rtol=1e-5)


def test_learned_steps_find_a_better_one():
    w = np.random.default_rng(0).normal(size=(1, 400, 2)).astype("float32")
    found = of(w, "int4", 4, steps="learned", learning_rate=0.01)
    found.learned.variable.assign([1.0, 0.01])

    def error():
        return float(np.mean((np.asarray(found.fake(w)) - w) ** 2))

    before, value = error(), tf.constant(w)
    for _ in range(400):
        with tf.GradientTape() as tape:
            tape.watch(value)
            loss = tf.reduce_mean((found.fake(value, learning=1.0) - w) ** 2)
        tape.gradient(loss, value)
    steps = np.linspace(0.05, 1, 200)
    best = min(float(np.mean((np.clip(np.round(w / s), -7, 7) * s - w) ** 2)) for s in steps)
    assert error() < 1.1 * best < before


def test_learned_few_values():
    w = np.random.default_rng(0).normal(size=(1, 50, 3)).astype("float32")
    assert isinstance(of(w, "ternary", steps="learned"), LearnedGrid)
    for precision, values in (("int2", (-2, -1, 0, 1)), ("ternary", (-1, 0, 1)), ("binary", (-1, 1))):
        q, _ = of(w, precision, steps="learned").integers(w)
        assert set(np.unique(q)) <= set(values) and not of(w, precision, steps="learned").nearest
    assert of(w, "int4", 4, steps="learned").nearest


def test_a_step_of_learning_by_hand():
    learned = Learned(MAKE([2.0, 0.0, 3.0], name="p"), 0.1, MAKE)
    learned.note(tf.constant([1.0, 1.0, -2.0]))
    learned.step(1.0)
    # g = p dL = 2, 0, -6; v = g^2: p exp(-0.1 sign g)
    np.testing.assert_allclose(learned.variable, [2 * np.exp(-0.1), 0, 3 * np.exp(0.1)], rtol=1e-6)
    before = learned.variable.numpy()
    learned.step(1.0)  # nothing was noted since
    learned.note(tf.constant([np.inf, np.nan, 1.0]))
    learned.step(0.0)
    np.testing.assert_array_equal(learned.variable, before)
    g = before[2] * 4.0
    learned.note(tf.constant([np.inf, np.nan, 4.0]))
    learned.step(1.0)
    wanted = before[2] * np.exp(-0.1 * g / np.sqrt(0.99 * 36 + 0.01 * g**2))
    np.testing.assert_allclose(learned.variable, [before[0], 0, wanted], rtol=1e-5)
