"""Random custom layers: opened and equal, or closed with a reason; planned to 60 % and equal to the masked model."""

import custom_layers
import keras
import numpy as np
import pytest
from oracle import assert_equal, assert_pruned_equals_masked
from random_layers import random_custom_model

from tfstruct import surgery
from tfstruct.errors import BudgetError, EmptyPlanError
from tfstruct.graph.opening import open_model

FEW, MANY = range(12), range(12, 300)


def check(seed: int) -> None:
    keras.backend.clear_session()
    model = custom_layers.randomized(random_custom_model(seed))
    x = np.random.default_rng(seed).normal(size=(3, *model.input_shape[1:])).astype("float32")
    found = open_model(model)
    opened = found.model
    assert found.opened or found.closed
    assert all("random numbers" in why for why in found.closed.values()), found.closed
    assert_equal([np.asarray(model(x))], [np.asarray(opened(x))])
    try:
        smaller = surgery.apply(opened, surgery.plan_channels(opened, {"macs": 0.6}))
    except (BudgetError, EmptyPlanError):  # a wall may leave less than that
        assert found.closed
    else:
        assert smaller.count_params() < opened.count_params()
    assert_pruned_equals_masked(opened, inputs=keras.ops.convert_to_tensor(x))


@pytest.mark.sweep(6)
@pytest.mark.parametrize("seed", FEW)
def test_random_layers(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_many_random_layers(seed):
    check(seed)
