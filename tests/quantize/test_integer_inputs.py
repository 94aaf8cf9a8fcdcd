"""Inputs of integers: the twin rounds those that the file quantizes, and leaves ids and 8-bit pixels as they are."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct.convert import Converter
from tfstruct.quantize import calibrate

rng = np.random.default_rng(0)


def scaled(dtype, largest):
    x = inputs = keras.Input((6,), dtype=dtype, name="x")
    return keras.Model(inputs, layers.Dense(3)(layers.Rescaling(1 / largest)(x)))


def cast(dtype, largest):
    x = inputs = keras.Input((6,), dtype=dtype, name="x")
    return keras.Model(inputs, layers.Dense(3)(keras.ops.cast(x, "float32") / largest))


def looked_up(dtype, largest):
    x = inputs = keras.Input((6,), dtype=dtype, name="x")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(largest, 4)(x))
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("make, dtype, largest, ranged", [
    (scaled, "uint8", 255, False), (scaled, "int16", 3000, True), (cast, "int32", 100000, True),
    (looked_up, "int32", 20, False),
])  # fmt: skip
def test_file_and_twin_agree(make, dtype, largest, ranged, process):
    keras.utils.set_random_seed(0)
    model = make(dtype, largest)
    x = rng.integers(0, largest, (120, 6)).astype(dtype)
    twin = calibrate(model, x)
    assert ("x" in twin.ranges()) == ranged
    if ranged:
        np.testing.assert_allclose(twin.ranges()["x"], [0, x.max()], rtol=1e-6)
    with Converter(twin, process=process) as converter:
        made = converter.convert()
    plain, wanted = model(x).numpy(), twin(x).numpy()
    step = np.ptp(plain) / 255
    assert np.abs(np.asarray(made.predict(x)).reshape(wanted.shape) - wanted).max() <= 1.5 * step
    assert np.abs(wanted - plain).max() > 0  # the twin rounds
    assert 10 * np.log10(np.sum(plain**2) / np.sum((wanted - plain) ** 2)) > 25
