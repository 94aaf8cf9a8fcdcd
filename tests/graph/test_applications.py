"""The oracle over the models of keras.applications: all by `pytest -m slow`, a small one always."""

import os

import keras
import numpy as np
import pytest
from oracle import assert_equal, assert_pruned_equals_masked, share_prunable
from sweeps import sweep
from zoo import randomise, settle

from tfstruct import graph as graphs

# The smallest resolution that each class takes; 32 elsewhere.
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
MODELS = sorted(
    name for name in dir(keras.applications) if name[0].isupper() and callable(getattr(keras.applications, name))
)
SMALL = {
    "MobileNetV2": {"alpha": 0.35},
    "MobileNetV3Small": {"alpha": 0.75},
}


pytestmark = pytest.mark.usefixtures("float64")


def _made(name, **options):
    keras.utils.set_random_seed(0)
    size = SIZES.get(name, 32)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None, **options)
    # As images are: some of the models begin by scaling them.
    x = np.random.default_rng(0).uniform(0, 255, (4, size, size, 3))
    settle(randomise(model), x)
    y = keras.ops.convert_to_numpy(model(x))
    assert np.isfinite(y).all() and (y.std(axis=0) > 0.01 * np.abs(y).max(axis=0)).all(), "its outputs say nothing"
    return model, x


def _check(name, path, **options):
    model, x = _made(name, **options)
    # The promise. Most are equal within 1e-10 here, but the deepest answer to a last bit of their input by 1e-4.
    graph, _, smaller = assert_pruned_equals_masked(model, inputs=x, tolerance=1e-5)
    assert smaller.count_params() < 0.75 * model.count_params()
    for group in graphs.groups(graph):
        assert group.reason or len(group.free) == group.width, group.name
    assert share_prunable(model, graph) >= 0.9
    del model, graph

    before = keras.ops.convert_to_numpy(smaller(x))
    file = os.path.join(path, "model.keras")
    smaller.save(file)
    assert_equal([before], [keras.ops.convert_to_numpy(keras.saving.load_model(file)(x))])
    os.remove(file)

    smaller.compile(keras.optimizers.SGD(1e-4), "mse", run_eagerly=True)
    start = [w.numpy().copy() for w in smaller.trainable_variables[-2:]]
    assert np.isfinite(smaller.train_on_batch(x, np.zeros(before.shape)))
    assert all((a != w.numpy()).any() for a, w in zip(start, smaller.trainable_variables[-2:], strict=True))


@pytest.mark.parametrize("name", sweep(SMALL, quick=["MobileNetV3Small"]))
@pytest.mark.slow
def test_small_applications(name, tmp_path):
    _check(name, tmp_path, **SMALL[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_all_applications(name, tmp_path):
    _check(name, tmp_path)
