"""Budgets are read alike by everything that takes one."""

import keras
import numpy as np
import pytest

from tfstruct import budgets, plan_channels
from tfstruct.callbacks import PruneChannels
from tfstruct.compression import Budget
from tfstruct.errors import BudgetError
from tfstruct.quantize import mixed_precision


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    given = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(64, 3, activation="relu")(given)
    x = keras.layers.Conv2D(64, 3, activation="relu")(x)
    return keras.Model(given, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))


def planned(model, budget):
    return plan_channels(model, budget).settings["budget"]


def in_training(model, budget):
    return PruneChannels(budget).options.budget


def compressed(model, budget):
    return Budget.of(budget).figures


def mixed(model, budget):
    return mixed_precision(model, np.zeros((2, 8, 8, 3), "float32"), budget)


@pytest.mark.parametrize("read", [planned, in_training, compressed])
@pytest.mark.parametrize(
    "budget", ["macs=50%, params=0.4", {"macs": "50%", "params": 0.4}, {"macs": 0.5, "params": 0.4}]
)
def test_text_and_dict_are_one(model, read, budget):
    assert read(model, budget) == {"macs": 0.5, "params": 0.4}


@pytest.mark.parametrize("read", [planned, in_training])
@pytest.mark.parametrize("share", [0.25, "0.25", "25%", np.float32(0.25)])
def test_a_share_of_every_group(model, read, share):
    assert read(model, share) == 0.25


def test_mixed_precision_reads_a_text(model):
    assert mixed(model, "tflite_bytes=100%").layers == mixed(model, {"tflite_bytes": 1.0}).layers


@pytest.mark.parametrize("read", [planned, in_training, compressed, mixed])
@pytest.mark.parametrize(
    "budget",
    ["", {}, "macs", "macs=", "macs=1,macs=2", "macs=half", "macs=150%", "macs=0", "macs=-5%", "macs=nan", "macs=inf",
     "speed=50%", {"macs": True}, {"macs": None, "speed": 1}, {"macs": [1]}, 7, "120%"],
    ids=str,
)  # fmt: skip
def test_what_is_no_budget_is_refused(model, read, budget):
    if read is compressed and budget in ("", {}):
        assert read(model, budget) == {}  # as small as the quality allows
        return
    with pytest.raises(BudgetError):
        read(model, budget)


def test_a_forgotten_percent_sign_is_named(model):
    with pytest.raises(BudgetError, match=r'whole has [\d,]+\. For a percentage write 0.5, or "macs=50%"'):
        plan_channels(model, {"macs": 50})
    assert budgets.absolute("latency_us", 50, 1000) == 50  # a twentieth is a figure that someone may mean
