"""The layers against NumPy, on draws that both know; the expectation over many draws."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct import schedules
from tfstruct.errors import ModelError
from tfstruct.layers import (
    ConcreteDropout,
    DropBlock1D,
    DropBlock2D,
    DropConnect,
    HardConcrete,
    MonteCarloDropout,
    ScheduledDropout,
    StochasticDepth,
    TargetedDropout,
    VariationalDropout,
    predict_distribution,
)

kl = keras.layers
RNG = np.random.default_rng(0)


def draws(shape, seed=1) -> np.ndarray:
    """What a layer of this seed draws first."""
    return keras.random.uniform(shape, dtype="float32", seed=keras.random.SeedGenerator(seed)).numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normal(*shape) -> np.ndarray:
    return RNG.normal(size=shape).astype("float32")


def mean_of(layer, x, count=2000) -> np.ndarray:
    """The mean over many draws."""

    @tf.function
    def total():
        return tf.foldl(lambda s, _: s + layer(x, training=True), tf.range(count), tf.zeros_like(layer(x)))

    layer(x, training=True)
    return total().numpy() / count


def test_drop_connect():
    x = normal(3, 4)
    layer = DropConnect(kl.Dense(5, bias_initializer="ones"), 0.3, seed=1)
    layer.build(x.shape)
    kernel = layer.layer.kernel.numpy()
    expected = x @ np.where(draws((4, 5)) >= 0.3, kernel / 0.7, 0) + 1
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean_of(layer, x), layer(x), atol=0.15)


@pytest.mark.parametrize("mode", ["weight", "unit"])
def test_targeted_dropout(mode):
    kernel = np.array([[1, -6, 3], [2, 5, -4], [-3, 4, 5], [4, 3, 6]], "float32")
    layer = TargetedDropout(kl.Dense(3, use_bias=False), 0.4, 0.5, mode, seed=1)
    layer.build((None, 4))
    layer.layer.kernel.assign(kernel)
    # Of each column the two smallest; of the columns (norms 5.5, 9.3, 9.3) one.
    smallest = {"weight": [[1, 0, 1], [1, 0, 1], [0, 1, 0], [0, 1, 0]], "unit": [[1, 0, 0]] * 4}[mode]
    np.testing.assert_array_equal(layer.targeted(), smallest)
    keep = (draws((4, 3) if mode == "weight" else (1, 3)) >= 0.4) / 0.6
    expected = np.where(smallest, kernel * keep, kernel)
    x = np.eye(4, dtype="float32")
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-5)
    np.testing.assert_allclose(mean_of(layer, x), kernel, atol=0.3)


def test_targeted_units_of_other_kernels():
    for inner, shape, axis in (
        (kl.DepthwiseConv2D(3), (1, 5, 5, 4), -2),
        (kl.Conv2DTranspose(6, 3), (1, 5, 5, 4), -2),
        (kl.Conv1D(6, 3), (1, 5, 4), -1),
    ):
        layer = TargetedDropout(inner, 1.0, 0.5, "unit", rescale=False)
        layer.build(shape)
        norms = np.sqrt((np.moveaxis(inner.kernel.numpy(), axis, 0) ** 2).reshape(inner.kernel.shape[axis], -1).sum(1))
        found = np.moveaxis(np.asarray(layer.targeted()), axis, 0).reshape(len(norms), -1).mean(1)
        np.testing.assert_array_equal(found, norms < np.sort(norms)[len(norms) // 2])


def test_concrete_dropout():
    x = normal(6, 4)
    layer = ConcreteDropout(kl.Dense(3), 0.3, weight_regularizer=0.1, dropout_regularizer=0.2, seed=1)
    y = layer(x, training=True)
    u, p = draws((6, 4)), 0.3
    z = sigmoid((np.log(p / (1 - p)) + np.log(u) - np.log(1 - u)) / 0.1)
    kernel = layer.layer.kernel.numpy()
    np.testing.assert_allclose(y, (x * (1 - z) / (1 - p)) @ kernel, rtol=1e-3, atol=1e-5)
    terms = 0.1 * (kernel**2).sum() / (1 - p) + 0.2 * 4 * (p * np.log(p) + (1 - p) * np.log(1 - p))
    np.testing.assert_allclose(layer.losses, [terms], rtol=1e-5)
    assert layer.learned_rate == pytest.approx(0.3)
    layer(x)
    assert layer.losses == []
    np.testing.assert_allclose(mean_of(layer, x), layer(x), atol=0.15)


def test_concrete_dropout_learns_its_rate_and_drops_whole_channels_of_images():
    layer = ConcreteDropout(kl.Conv2D(2, 1, kernel_initializer="ones", use_bias=False), 0.5, 0.0, 1.0, 1e-3, seed=1)
    x = np.ones((2, 4, 4, 3), "float32")
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
        loss = tf.add_n(layer.losses) + 0 * tf.reduce_sum(y)
    assert np.ptp(y.numpy(), axis=(1, 2)).max() < 1e-5
    (gradient,) = tape.gradient(loss, [layer.rate_logit.value])
    assert abs(float(gradient)) < 1e-5  # the entropy is largest at 0.5
    layer.rate_logit.assign(-1.0)
    with tf.GradientTape() as tape:
        layer(x, training=True)
        loss = tf.add_n(layer.losses)
    assert float(tape.gradient(loss, layer.rate_logit.value)) < 0  # towards 0.5


@pytest.mark.parametrize("data_format", ["dense", "channels_last"])
def test_variational_dropout(data_format):
    inner = kl.Dense(3) if data_format == "dense" else kl.Conv1D(3, 2)
    x = normal(4, 5) if data_format == "dense" else normal(4, 6, 2)
    layer = VariationalDropout(inner, 0.01, initial_log_variance=-2.0, seed=1)
    y = layer(x, training=True)
    theta = inner.kernel.numpy()
    a = np.clip(-2.0 - np.log(theta**2 + 1e-16), -8, 8)
    mean, kernel = inner(x).numpy(), np.exp(a) * theta**2
    variance = x**2 @ kernel if data_format == "dense" else tf.nn.conv1d(x**2, kernel, 1, "VALID").numpy()
    noise = keras.random.normal(mean.shape, seed=keras.random.SeedGenerator(1))
    np.testing.assert_allclose(y, mean + np.sqrt(variance) * noise, rtol=1e-3, atol=1e-4)
    kl_sum = (0.63576 - 0.63576 * sigmoid(1.8732 + 1.48695 * a) + 0.5 * np.log1p(np.exp(-a))).sum()
    np.testing.assert_allclose(layer.losses, [0.01 * kl_sum], rtol=1e-5)
    np.testing.assert_allclose(mean_of(layer, x), mean, atol=0.15)


def test_variational_dropout_zeroes_noise():
    layer = VariationalDropout(kl.Dense(4), 0.0)
    layer.build((None, 3))
    noisy = np.array([[1, 0, 1, 0]] * 3, bool)
    layer.log_variance.assign(np.where(noisy, np.log(layer.layer.kernel.numpy() ** 2) + 3.1, -20.0))
    expected = np.where(noisy, 0.0, layer.layer.kernel.numpy())
    np.testing.assert_array_equal(layer(np.eye(3, dtype="float32")), expected)
    np.testing.assert_array_equal(layer.inference_layer().kernel, expected)
    assert layer.sparsity() == 0.5


@pytest.mark.parametrize("dims", [1, 2])
def test_drop_block(dims):
    kind, shape = (DropBlock1D, (2, 10, 3)) if dims == 1 else (DropBlock2D, (2, 6, 10, 3))
    space = shape[1:-1]
    free = tuple(n - 2 for n in space)
    gamma = 0.3 / 3**dims * np.prod(space) / np.prod(free)
    starts = draws((2, *free, 3)) < gamma
    keep = np.ones(shape)
    for index in np.argwhere(starts):
        where = tuple(slice(i, i + 3) for i in index[1:-1])
        keep[(index[0], *where, index[-1])] = 0
    assert 0 < keep.mean() < 1
    x = normal(*shape)
    expected = x * keep / keep.mean()
    np.testing.assert_allclose(kind(0.3, 3, seed=1)(x, training=True), expected, rtol=1e-5)
    first = kind(0.3, 3, "channels_first", seed=1)(np.moveaxis(x, -1, 1), training=True)
    np.testing.assert_allclose(np.moveaxis(first, 1, -1), expected, rtol=1e-5)
    # A block larger than the map is the whole map.
    whole = kind(0.5, 50, seed=1)(np.ones((40, *shape[1:]), "float32"), training=True).numpy()
    assert np.ptp(whole, axis=tuple(range(1, dims + 1))).max() == 0
    assert whole.mean() == pytest.approx(1, rel=1e-5) and (whole == 0).any()


def test_drop_block_on_open_sides():
    layer = DropBlock2D(0.3, 3, seed=1)
    model = keras.Sequential([keras.Input((None, None, 2)), layer])
    run = tf.function(lambda x: model(x, training=True), input_signature=[tf.TensorSpec((None, None, None, 2))])
    for size in (5, 9):
        y = run(np.ones((4, size, size, 2), "float32"))
        assert y.shape == (4, size, size, 2) and float(tf.reduce_mean(y)) == pytest.approx(1, rel=1e-5)


def test_stochastic_depth():
    x = np.ones((4000, 2, 3), "float32")
    y = StochasticDepth(0.25, seed=1)(x, training=True).numpy()
    assert np.ptp(y.reshape(4000, -1), axis=1).max() == 0  # a sample goes whole
    assert set(np.unique(np.round(y, 5))) == {0.0, np.float32(1.33333)}
    assert y.mean() == pytest.approx(1, abs=0.04)


def test_scheduled_dropout_follows_its_schedule():
    layer = ScheduledDropout(keras.optimizers.schedules.PolynomialDecay(0.0, 4, 0.8), seed=1)
    x = np.ones((100, 200), "float32")
    for step in range(6):
        y = layer(x, training=True).numpy()
        rate = min(step / 4, 1) * 0.8
        assert np.mean(y == 0) == pytest.approx(rate, abs=0.02)
        assert y.mean() == pytest.approx(1, abs=0.04)
        layer(x)
        assert int(layer.step.numpy()) == step + 1
    assert ScheduledDropout(1.0)(x, training=True).numpy().max() == 0


def test_hard_concrete():
    x = normal(3, 5, 2)
    layer = HardConcrete(0.1, 0.3, seed=1)
    y = layer(x, training=True)
    a, u = layer.log_alpha.numpy(), draws((3, 1, 2))
    np.testing.assert_allclose(a, np.log(0.7 / 0.3), atol=0.1)
    z = np.clip(sigmoid((np.log(u) - np.log(1 - u) + a) / (2 / 3)) * 1.2 - 0.1, 0, 1)
    np.testing.assert_allclose(y, x * z, rtol=1e-3, atol=1e-5)
    expected = sigmoid(a - 2 / 3 * np.log(0.1 / 1.1)).sum()
    np.testing.assert_allclose(layer.losses, [0.1 * expected], rtol=1e-5)
    layer.log_alpha.assign([-3.0, 3.0])
    np.testing.assert_array_equal(layer.gates(), [0, 1])
    np.testing.assert_array_equal(layer(x), x * [0, 1])


def test_expected_open_gates_are_those_drawn():
    layer = HardConcrete(1.0, 0.4, seed=1)
    y = layer(np.ones((20000, 3), "float32"), training=True).numpy()
    assert float(layer.expected_open()) == pytest.approx((y > 0).mean(0).sum(), abs=0.03)


def test_monte_carlo_dropout():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, kl.Dense(1, use_bias=False, kernel_initializer="ones")(
        MonteCarloDropout(0.5, seed=1)(inputs)))  # fmt: skip
    x = np.array([[1, 2, 3, 4], [0, 0, 0, 0]], "float32")
    found = predict_distribution(model, x, passes=10)
    model.layers[1].seed_generator.state.assign([1, 0])
    passes = np.stack([model.predict(x, verbose=0) for _ in range(10)]).astype("float64")
    np.testing.assert_allclose(found.mean, passes.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.variance, passes.var(0), rtol=1e-6)
    # E y = sum x, var y = sum x^2 at a rate of one half.
    assert found.mean[0, 0] == pytest.approx(10, abs=5) and found.variance[0, 0] == pytest.approx(30, rel=0.9)
    assert found.variance[1, 0] == 0 and found.passes == 10
    model.layers[1].active_in_inference = False
    np.testing.assert_array_equal(model(x), [[10], [0]])
    with pytest.raises(ModelError, match="no active MonteCarloDropout"):
        predict_distribution(model, x)


def dense():
    return kl.Dense(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DropConnect(dense(), -0.1), r"`rate` must be a number in \[0, 1\). Received: -0.1"),
        (lambda: DropConnect(dense(), 1.0), r"`rate` must be .* Received: 1.0"),
        (lambda: DropConnect("dense", 0.1), "valid Keras layer|isn't"),
        (lambda: DropConnect(kl.ReLU(), 0.1).build((1, 2)), "needs a layer with a kernel"),
        (lambda: DropConnect(dense(), 0.1).inference_layer(), "no weights yet"),
        (lambda: TargetedDropout(dense(), 1.0), "`rate` must be"),
        (lambda: TargetedDropout(dense(), 0.5, 1.5), r"`target` must be a number in \[0, 1\]"),
        (lambda: TargetedDropout(dense(), 0.5, mode="row"), '"weight" or "unit"'),
        (lambda: TargetedDropout(kl.LSTM(2), 0.5), "Received: LSTM"),
        (lambda: ConcreteDropout(dense(), 0.0), "`rate` must be above 0"),
        (lambda: ConcreteDropout(dense(), temperature=0), "`temperature` must be a finite number above 0"),
        (lambda: ConcreteDropout(dense(), weight_regularizer=-1), "`weight_regularizer` must be .*0 or larger"),
        (lambda: VariationalDropout(dense(), -1.0), "`kl_weight` must be"),
        (lambda: VariationalDropout(kl.LSTM(2), 1.0), "Received: LSTM"),
        (lambda: VariationalDropout(dense(), 1.0, threshold=9), "between -8 and 8"),
        (lambda: DropBlock1D(True), "`rate` must be"),
        (lambda: DropBlock2D(0.1, 0), "`block_size` must be a whole number, 1 or larger. Received: 0"),
        (lambda: DropBlock2D(0.1, data_format="last"), "`data_format` must be"),
        (lambda: DropBlock2D(0.1)(np.zeros((1, 2, 3), "float32")), "ndim=4|expected ndim"),
        (lambda: StochasticDepth(1.0), "`rate` must be"),
        (lambda: ScheduledDropout("high"), "`rate` must be"),
        (lambda: ScheduledDropout(lambda step: step - 1.0), "At step 0 it gave -1.0"),
        (lambda: ScheduledDropout(schedules.PolynomialRatio(0, 0.5, 0, 30)), "or a LearningRateSchedule such as"),
        (lambda: HardConcrete(-1), "`penalty` must be"),
        (lambda: HardConcrete(0.1, 0.0), "`rate` must be above 0"),
        (lambda: HardConcrete(0.1, axis=0), "`axis` must be"),
        (lambda: HardConcrete(0.1, axis=4).build((None, 2)), "no fixed number of channels"),
        (lambda: HardConcrete(0.1).inference_layer(), "no gates yet"),
        (lambda: MonteCarloDropout(1.2), "`rate` must be"),
        (lambda: predict_distribution(None, None, passes=1), "`passes` must be a whole number, 2 or larger"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
