"""The oracle over random graphs: a handful always, hundreds by `pytest -m slow`."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from oracle import assert_pruned_equals_masked
from random_models import random_model
from zoo import randomise, sample_inputs

pytestmark = pytest.mark.usefixtures("float64")


def check(seed, share):
    note(f"random_model({seed}), share {share}")
    model = randomise(random_model(seed), seed)
    x = sample_inputs(model, 3, seed)
    # Keras rounds 1 / sqrt(key_dim) of its attention layers to float32 in float64 models too.
    *_, smaller = assert_pruned_equals_masked(model, share, seed, x, tolerance=1e-7)
    return smaller.count_params() < model.count_params()


SEEDS = st.integers(0, 10**6)
SHARES = st.sampled_from([0.2, 0.5, 0.9])
FEW = settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def test_random_graphs():
    lost = []

    @FEW
    @given(SEEDS, SHARES)
    def run(seed, share):
        lost.append(check(seed, share))

    run()
    assert np.mean(lost) > 0.6, "models were compared with themselves"


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(10))
def test_many_random_graphs(batch):
    @settings(FEW, max_examples=60)
    @given(SEEDS, SHARES)
    def run(seed, share):
        check(seed + 10**6 * batch, share)

    run()
    keras.backend.clear_session()


def test_random_models_are_the_same_for_a_seed_and_differ_otherwise():
    first, again, other = random_model(3), random_model(3), random_model(4)
    assert [tuple(w.shape) for w in first.weights] == [tuple(w.shape) for w in again.weights]
    assert [tuple(w.shape) for w in first.weights] != [tuple(w.shape) for w in other.weights]


@pytest.mark.slow
def test_random_models_lose_channels():
    """Otherwise the equalities above would compare models with themselves."""
    lost = []
    for seed in range(12):
        model = randomise(random_model(seed), seed)
        *_, smaller = assert_pruned_equals_masked(model, 0.4, seed, sample_inputs(model, 2), tolerance=1e-8)
        lost.append(smaller.count_params() < model.count_params())
    assert np.mean(lost) > 0.6
