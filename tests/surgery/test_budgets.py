"""Budgets on networks of keras.applications: met by the model that is built, and by its int8 file."""

import keras
import pytest
from zoo import randomise

from tfstruct import graph as graphs
from tfstruct.analyze.costs import Costs
from tfstruct.convert.draft import draft
from tfstruct.surgery import apply, plan_channels
from tfstruct.surgery.pruning import planner
from tfstruct.surgery.pruning.removals import first_that_meets

NETWORKS = ("MobileNetV2", "ResNet50", "EfficientNetB0", "DenseNet121")


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["macs", "params", "tflite_bytes", "peak_memory"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_built_model_meets_the_budget(name, cost, process):
    keras.utils.set_random_seed(0)
    model = randomise(getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), classes=10))
    plan = plan_channels(model, {cost: 0.5})
    limit = 0.5 * plan.before[cost]
    smaller = apply(model, plan)
    costs = Costs(graphs.trace(smaller))()
    assert costs[cost] == plan.after[cost] <= limit
    assert costs["params"] == smaller.count_params()
    if cost == "tflite_bytes":
        content, _ = draft(smaller, process=process)
        assert len(content) <= limit
    keras.backend.clear_session()


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("name", NETWORKS)
def test_all_budgets_together_and_no_step_too_many(name, scope, monkeypatch):
    keras.utils.set_random_seed(0)
    model = randomise(getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), classes=10))
    budget = {"macs": 0.6, "params": 0.5, "tflite_bytes": 0.55, "peak_memory": 0.8}
    asked = {}
    search = first_that_meets

    def noted(order, fits):
        found = search(order, lambda n: asked.setdefault(n, fits(n)))
        return found

    monkeypatch.setattr(planner, "first_that_meets", noted)
    plan = plan_channels(model, budget, scope=scope, round_to=8)
    assert all(plan.after[name] <= share * plan.before[name] for name, share in budget.items())
    met = [n for n, fits in asked.items() if fits]
    assert asked[min(met) - 1] is False
    keras.backend.clear_session()
