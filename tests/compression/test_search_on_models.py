"""Searches over real models: what the graph rules out is not trained; `compress` hands back the best."""

import dataclasses

import keras
import pytest
from contracts import two_replicas
from small_tasks import points, residual_network

import tfstruct
from tfstruct.analyze import Costs
from tfstruct.compression import Budget, Search, Settings, Space, Task, carry_out, search_strategies, steps
from tfstruct.compression.automatic import automatic_strategy
from tfstruct.compression.search import evaluation
from tfstruct.errors import ArgumentError, BudgetError
from tfstruct.graph import trace

layers = keras.layers


@pytest.fixture(scope="module")
def model():
    return residual_network()


@pytest.fixture(scope="module")
def data():
    return points(64, 1), points(64, 2)


@pytest.fixture
def task(model, data, process, tmp_path):
    settings = Settings(epochs=1, batch_size=32, learning_rate=1e-2, seed=1)
    with Task(model, *data, "macs=60%", settings=settings, workdir=tmp_path / "work", process=process) as one:
        yield one


def test_what_misses_the_budget_by_its_graph_is_not_trained(task, monkeypatch):
    trained = []
    monkeypatch.setattr(evaluation, "carry_out", lambda *a, **k: trained.append(a))
    whole = task.original.macs
    pruned = steps.PruneChannels(budget={"macs": 0.9 * whole})
    place = task.folder.inner("trial")
    with pytest.raises(BudgetError, match=r"not trained: macs [\d,]+ \(at most [\d,]+\)"):
        evaluation.evaluate(task, (pruned, steps.Quantize()), place, 1)
    assert not trained
    small = (steps.PruneChannels(budget={"macs": 0.5 * whole}), steps.Quantize(precision="int4"))
    assert evaluation.foreseen(task, small, task.folder.inner("small"), 1) == ()
    # The file of a trained model has the size that was foreseen, to a few bytes.
    monkeypatch.setattr(task, "limits", Budget.of({"tflite_bytes": 200.0}).limits(task.original, task.plain))
    with pytest.raises(BudgetError, match="not trained: tflite_bytes"):
        evaluation.evaluate(task, (steps.Quantize(),), task.folder.inner("file"), 1)
    said = evaluation.foreseen(task, (steps.Quantize(),), task.folder.inner("file"), 1)[0]
    assert int(said.split()[1].replace(",", "")) == pytest.approx(task.plain.tflite_bytes, rel=0.01)


def test_what_a_model_has_to_choose_from(task):
    space = Space.of(task)
    assert space.blocks == 1 and space.gradual and space.precisions == ("int8", "int4")
    assert space.channels == pytest.approx((0.09, 0.6)) and space.whole == task.original.macs
    assert space.multiples == (1, 4, 8) and "inner" in space.factorized
    assert set(space.distributions) == {"channels", "multiple", "blocks", "energy", "precision"}


def test_a_search_starts_from_the_front(model, process, tmp_path):
    """What "auto" does, then choices that need less, each within its share of the limit; killed, the same again."""
    data, settings = (points(256, 1), points(64, 2)), Settings(epochs=0, seed=1)
    with Task(model, *data, "macs=60%", settings=settings, workdir=tmp_path / "work", process=process) as task:
        limit, first = task.limits.figures["macs"], automatic_strategy(task)[0]
        costs = []

        def evaluate(task, steps, folder, seed):
            if len(costs) == 2:
                raise KeyboardInterrupt
            costs.append(carry_out(task, steps, folder, seed=seed).candidate)
            return costs[-1]

        with pytest.raises(KeyboardInterrupt):
            search_strategies(task, Search(trials=4), evaluate=evaluate)
        found = search_strategies(task, Search(trials=4), evaluate=lambda *_: costs[0])
    assert [trial.generation for trial in found.trials] == [0, 0, 0, 1]
    assert found.trials[0].steps == first
    assert costs[0].macs <= limit and costs[1].macs <= 0.85 * limit
    assert foreseen_macs(model, found.trials[2].steps) <= 0.7 * limit


def foreseen_macs(model, strategy) -> int:
    for step in strategy:
        made = step.edit(model) if step.kind != "optimize" else model
        model = getattr(made, "model", made)
    return Costs(trace(model), ("macs",))()["macs"]


@pytest.mark.slow
def test_compress_hands_back_the_best_of_a_search(model, data, process, tmp_path, monkeypatch):
    search = Search(trials=2)
    made = tfstruct.compress(
        model, *data, "macs=60%", strategy=search, epochs=1, batch_size=32, learning_rate=1e-2,
        workdir=tmp_path / "work",
    )  # fmt: skip
    report = made.report
    tried = [one for one in report.candidates if one.name.startswith("trial")]
    assert [one.name for one in tried] == ["trial 0", "trial 1"]
    within = [one for one in tried if one.macs <= 0.6 * report.original.macs]
    assert report.met and report.result.quality == max(one.quality for one in within)
    assert "of 2, of which 2 were carried out" in report.decisions[0].reason
    best = max(report.candidates, key=lambda one: one.quality)
    assert best.quality == max(one.quality for one in report.front())
    # Called again it reads what it did.
    monkeypatch.setattr(evaluation, "carry_out", None)
    with Task(
        model, *data, "macs=60%", settings=Settings(epochs=1, batch_size=32, learning_rate=1e-2),
        workdir=tmp_path / "work", strategy="search", process=process,
    ) as task:  # fmt: skip
        found = search_strategies(task, search)
        assert [trial.candidate for trial in found.measured] == tried
        assert found.best.made(task).file.content == made.file.content


def figures(candidate) -> dict:
    """All but the latency, which is measured anew."""
    return {**candidate.to_dict(), "latency_us": None}


@pytest.mark.slow
def test_two_ray_workers_give_the_same_front_as_this_process(model, data, process, tmp_path):
    pytest.importorskip("ray")
    search, found = Search(trials=6, generation=4), {}
    settings = Settings(epochs=2, batch_size=32, learning_rate=1e-2, seed=1)
    for workers in (0, 2):
        with Task(
            model, *data, "tflite_bytes=95%", settings=settings, workdir=tmp_path / str(workers), process=process
        ) as task:  # fmt: skip
            found[workers] = search_strategies(task, dataclasses.replace(search, workers=workers))
    fronts = [[figures(trial.candidate) for trial in one.front()] for one in found.values()]
    assert fronts[0] == fronts[1] and fronts[0]
    trials = [[(trial.number, trial.steps, trial.seed, trial.reason) for trial in one.trials] for one in found.values()]
    assert trials[0] == trials[1]
    with Task(
        model, *data, "tflite_bytes=95%", settings=settings, workdir=tmp_path / "2", process=process
    ) as task:  # fmt: skip
        best = found[2].best.made(task)  # what a worker left is read here
    assert figures(best.candidate.replace(name=found[2].best.candidate.name)) == figures(found[2].best.candidate)


@pytest.mark.slow
@pytest.mark.usefixtures("second_device")
def test_a_model_made_in_the_scope_of_a_strategy_is_searched_behind_it(data, process, tmp_path):
    settings = Settings(epochs=2, batch_size=32, learning_rate=1e-2)
    with two_replicas().scope():
        inputs = keras.Input((12,))
        x = layers.Dense(16, activation="relu", name="stem")(inputs)
        model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x))
        model.compile("adam", "sparse_categorical_crossentropy")
        with pytest.raises(ArgumentError, match=r"models are compressed on one device\. Leave the scope first"):
            Task(model, *data, "macs=60%", settings=settings, process=process)
    with Task(model, *data, "macs=60%", settings=settings, workdir=tmp_path / "work", process=process) as task:
        found = search_strategies(task, Search(trials=1))
        limit = task.limits.figures["macs"]
    assert found.best.candidate.macs <= limit
