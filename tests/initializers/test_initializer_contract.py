"""What every initializer has to do: its values, its configuration, its files, and every way to train from it."""

import contracts
import keras
import numpy as np
import pytest

from tfstruct import initializers

OURS = {"Mean": {}, "Mean depthwise": {"depthwise": True}}
KERAS = [
    "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity", "LecunNormal", "LecunUniform",
    "Ones", "Orthogonal", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Zeros",
]  # fmt: skip


def made(row: str) -> keras.Initializer:
    return getattr(initializers, row.split()[0])(**OURS[row])


def network(row: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    if row == "Mean depthwise":
        return contracts.network(keras.layers.DepthwiseConv2D(3, padding="same", depthwise_initializer=made(row)))
    return contracts.network(keras.layers.Conv2D(6, 1, kernel_initializer=made(row)), keras.layers.Conv2D(6, 1))


def test_every_public_initializer_is_here():
    classes = {name for name in initializers.__all__ if isinstance(getattr(initializers, name), type)}
    assert classes - {"Signals"} == {*KERAS, "Mean"}


@pytest.mark.parametrize("name", KERAS)
def test_those_of_keras_are_keras_own(name):
    assert getattr(initializers, name) is getattr(keras.initializers, name)


@pytest.mark.parametrize("row", OURS)
def test_configuration(row):
    again = contracts.round_trip(made(row))
    np.testing.assert_array_equal(again((2, 3, 4, 5)), made(row)((2, 3, 4, 5)))
    assert keras.initializers.get({"class_name": "tfstruct>Mean", "config": OURS[row]}).get_config() == (
        made(row).get_config()
    )


def test_mean_by_hand():
    x = np.array([[1.0, 2.0, 6.0]], "float32")
    np.testing.assert_allclose(keras.layers.Dense(2, kernel_initializer=initializers.Mean())(x), [[3, 3]], rtol=1e-6)
    assert float(initializers.Mean()((2, 2, 3, 8), "float64")[0, 0, 0, 0]) == 1 / 12
    assert keras.backend.standardize_dtype(initializers.Mean()((2, 2), "float16").dtype) == "float16"


def test_mean_is_pooling():
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    pooled = keras.layers.AveragePooling2D(2)(x).numpy()
    depthwise = keras.layers.DepthwiseConv2D(2, 2, depthwise_initializer=initializers.Mean(depthwise=True))
    np.testing.assert_allclose(depthwise(x), pooled, rtol=1e-5, atol=1e-6)
    conv = keras.layers.Conv2D(4, 2, 2, kernel_initializer=initializers.Mean())
    wanted = np.repeat(pooled.mean(axis=-1, keepdims=True), 4, axis=-1)
    np.testing.assert_allclose(conv(x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("row", OURS)
def test_going_on_from_a_file(row, tmp_path):
    contracts.assert_resumes(lambda: network(row), tmp_path)


@pytest.mark.usefixtures("second_device")
@pytest.mark.parametrize(
    "row, way",
    [
        pytest.param(row, way, marks=[pytest.mark.slow] if way != "fit" and row == "Mean depthwise" else [])
        for row in OURS
        for way in contracts.WAYS
    ],
)
@pytest.mark.sweep(3)
def test_learns(row, way):
    model = contracts.assert_learns(lambda: network(row), way)
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


def test_bad_input():
    with pytest.raises(ValueError, match=r"`depthwise` must be True or False. Received: 1\."):
        initializers.Mean(depthwise=1)
    with pytest.raises(ValueError, match="at least 2 axes"):
        initializers.Mean()((3,))
    with pytest.raises(ValueError, match=r"Mean\(depthwise=True\) fills kernels of at least 3 axes"):
        initializers.Mean(depthwise=True)((3, 3))
