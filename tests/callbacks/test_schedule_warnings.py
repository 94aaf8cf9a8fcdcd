"""A schedule that this training cannot reach the end of, or that prunes nothing, is warned of at the start."""

import warnings

import keras
import numpy as np
import pytest

from tfstruct.callbacks import Prune
from tfstruct.schedules import ConstantRatio, OneShot, PolynomialRatio

X, Y = np.ones((32, 4), "float32"), np.ones((32, 2), "float32")


def said(schedule, epochs=1) -> list[str]:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=[Prune(schedule, frequency=1)])
    return [str(one.message) for one in found if "schedule" in str(one.message) or "prunes" in str(one.message)]


@pytest.mark.parametrize("schedule", [PolynomialRatio(0.0, 0.8, begin=0, end=1000), OneShot(0.5, at=900)])
def test_it_ends_long_after_the_training(schedule):
    assert [line for line in said(schedule) if "this `fit` ends at step 4" in line and "end=4" in line]


def test_it_prunes_nothing():
    (line,) = said(ConstantRatio(0.0))
    assert line == "ConstantRatio(ratio=0.0, begin=0, end=None) prunes nothing: the ratio at its end is 0."


@pytest.mark.parametrize(
    "schedule", [PolynomialRatio(0.0, 0.8, begin=0, end=8), ConstantRatio(0.5), OneShot(0.5, at=3), 0.5]
)
def test_what_is_reached_is_not_warned_of(schedule):
    assert said(schedule, epochs=2) == []
