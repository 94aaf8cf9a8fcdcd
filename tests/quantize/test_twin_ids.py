"""Floats that integers are made of (ids, bins) are not rounded, in the twin as in the file."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct import quantize
from tfstruct.convert import to_tflite

rng = np.random.default_rng(0)
many = rng.integers(0, 300, (64, 6)).astype("float32")


def looked_up(x, size: int = 301):
    return layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Embedding(size, 8)(x)))


def bins(x):
    return looked_up(layers.Discretization(bin_boundaries=[-1.0, -0.5, 0.0, 0.3, 1.0])(x), 6)


CASES = {
    "float ids": (looked_up, many),
    "after a sum": (lambda x: looked_up(x + 1.0), many),
    "computed": (lambda x: looked_up(ops.cast(ops.floor(x * 39.99), "int32"), 40), rng.uniform(size=(64, 6))),
    "read as numbers too": (lambda x: looked_up(x) + layers.Dense(3)(x / 300.0), many),
    "bins": (bins, rng.normal(size=(64, 6))),
}


def decibels(expected, got) -> float:
    return 10 * np.log10(np.mean(np.square(expected)) / max(np.mean(np.square(expected - got)), 1e-30))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.sweep(3)
def test_twin_file_and_model_agree(case):
    make, x = CASES[case]
    keras.utils.set_random_seed(0)
    given = keras.Input((6,))
    model, x = keras.Model(given, make(given)), x.astype("float32")
    twin = quantize.calibrate(model, x)
    expected, simulated = model.predict(x, verbose=0), np.asarray(twin(x))
    assert decibels(expected, simulated) > 30
    assert decibels(simulated, to_tflite(twin).predict(x)) > 30
