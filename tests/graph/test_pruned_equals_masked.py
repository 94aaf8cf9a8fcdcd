"""The oracle over models of keras.applications."""

import keras
import numpy as np
import pytest
from oracle import assert_pruned_equals_masked
from zoo import randomise


@pytest.mark.parametrize("name", ["MobileNetV2", "DenseNet121"])
def test_applications(name):
    keras.utils.set_random_seed(0)
    model = randomise(getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10))
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    *_, smaller = assert_pruned_equals_masked(model, inputs=x)
    assert smaller.count_params() < 0.6 * model.count_params()
