import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct.analyze import gradient_noise_scale
from tfstruct.errors import DataError, ModelError


def regression(samples=4096, width=5, noise=2.0, offset=0.7, seed=0):
    """Inputs N(0, 1), labels `x . w + N(0, noise^2)`, and a model whose weights are off by `offset` in each entry."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, width)).astype("float32")
    truth = rng.normal(size=(width, 1))
    y = (x @ truth + noise * rng.normal(size=(samples, 1))).astype("float32")
    model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    model.layers[0].set_weights([truth + offset])
    return model, x, y


def exact(width, noise, offset):
    """Of g = 2 (x.d - e) x: |G|^2 = 4 |d|^2 and tr(Sigma) = 4 ((n + 1) |d|^2 + noise^2 n)."""
    d = width * offset**2
    return 4 * d, 4 * ((width + 1) * d + noise**2 * width)


@pytest.mark.parametrize(("noise", "offset"), [(2.0, 0.7), (0.5, 0.3), (6.0, 1.0)])
def test_agrees_with_a_problem_where_it_is_known(noise, offset):
    model, x, y = regression(noise=noise, offset=offset)
    found = gradient_noise_scale(model, x, y, batch_size=16)
    norm, variance = exact(5, noise, offset)
    assert found.squared_norm == pytest.approx(norm, rel=0.2)
    assert found.variance == pytest.approx(variance, rel=0.2)
    assert found.scale == pytest.approx(variance / norm, rel=0.2)
    assert abs(found.scale - variance / norm) < 4 * found.standard_error
    assert found.standard_error < 0.2 * found.scale


def test_equals_the_covariance_of_single_gradients():
    """With batches of one sample it is the sample covariance, and |mean|^2 less its share."""
    model, x, y = regression(samples=64)
    found = gradient_noise_scale(model, (x, y), batch_size=1)
    single = 2 * (x @ model.get_weights()[0] - y) * x
    variance = single.var(0, ddof=1).sum()
    assert found.variance == pytest.approx(variance, rel=1e-4)
    assert found.squared_norm == pytest.approx((single.mean(0) ** 2).sum() - variance / 64, rel=1e-3)


def test_estimates_have_no_bias():
    """In the mean over many small draws, where each one alone is far off."""
    norm, variance = exact(5, 2.0, 0.7)
    draws = []
    for seed in range(60):
        draws.append(gradient_noise_scale(*regression(samples=32, seed=seed), batch_size=4, groups=2))
    for name, truth in (("squared_norm", norm), ("variance", variance)):
        values = np.array([getattr(one, name) for one in draws])
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values)), name


def test_standard_error_is_the_scatter_of_estimates():
    found = [gradient_noise_scale(*regression(samples=1024, seed=seed), batch_size=8) for seed in range(12)]
    scatter = np.std([one.scale for one in found])
    assert 0.5 < np.mean([one.standard_error for one in found]) / scatter < 2


@pytest.mark.parametrize("way", contracts.WAYS)
def test_ways(way, second_device):
    model = contracts.built(contracts.network, way)
    x, y = contracts.data()
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    found = gradient_noise_scale(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(5), batch_size=4)
    again = gradient_noise_scale(model, (x, y), batch_size=4, training=True)
    assert found.samples == again.samples == 64
    assert 0 < found.variance < np.inf and found.variance != again.variance
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, keras.ops.convert_to_numpy(b))


def test_regularization_moves_the_gradient_and_not_its_noise():
    model, x, y = regression(samples=256)
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, use_bias=False, kernel_regularizer="l2")])
    other.compile("sgd", "mse")
    other.set_weights(model.get_weights())
    plain, regularized = gradient_noise_scale(model, x, y), gradient_noise_scale(other, x, y)
    assert regularized.variance == pytest.approx(plain.variance, rel=1e-4)
    assert regularized.squared_norm != pytest.approx(plain.squared_norm, rel=1e-4)


def test_result_in_words_and_as_data():
    model, x, y = regression()
    found = gradient_noise_scale(model, x, y)
    assert str(found).startswith("gradient noise scale: ") and "4096 samples in batches of 8" in str(found)
    assert found.to_dict()["scale"] == found.scale
    lost, x, y = regression(samples=64, noise=50.0, offset=0.0, seed=3)
    found = gradient_noise_scale(lost, x, y)
    assert found.squared_norm < 0 and found.to_dict()["scale"] is None
    assert "lost in its noise" in str(found)


def test_bad_input():
    model, x, y = regression(samples=32)
    with pytest.raises(DataError, match=r"at least 64 samples, 8 batches of 8. Received: 32"):
        gradient_noise_scale(model, x, y)
    with pytest.raises(DataError, match="needs labels"):
        gradient_noise_scale(model, x)
    with pytest.raises(ValueError, match=r"`groups` must be an integer of at least 2. Received: 1"):
        gradient_noise_scale(model, x, y, groups=1)
    with pytest.raises(ValueError, match=r"`batch_size` must be an integer of at least 1. Received: 0"):
        gradient_noise_scale(model, x, y, batch_size=0)
    model.trainable = False
    with pytest.raises(ModelError, match="no trainable weights"):
        gradient_noise_scale(model, x, y, batch_size=2)
    with pytest.raises(DataError, match="needs a loss"):
        gradient_noise_scale(keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)]), x, y, batch_size=2)
