"""From measured alternatives to strategies: the choice of least damage, drafted and tried, with its reasons."""

import dataclasses
import json
import types

import numpy as np
import pytest

from tfstruct.compression import steps
from tfstruct.compression.alternatives import choosing, front_strategies
from tfstruct.compression.alternatives.alternative import Alternative, Part
from tfstruct.compression.alternatives.choosing import best_of, choose_strategies, planned_limits, strategy_of
from tfstruct.compression.alternatives.cost_table import CostTable
from tfstruct.compression.alternatives.damage import Damages
from tfstruct.compression.alternatives.measured import Measured
from tfstruct.compression.alternatives.solver import Choice
from tfstruct.compression.budget import Limits
from tfstruct.compression.candidate import Candidate
from tfstruct.compression.execution import StrategyResult
from tfstruct.compression.steps.step import Step
from tfstruct.errors import BudgetError

WIDTH = Part.of(
    "width of conv", "prune_channels",
    [Alternative(f"{n} channels", {"layer": "conv", "width": n}) for n in (12, 8)], ["conv", "head"],
)  # fmt: skip
FORM = Part.of(
    "form of big", "factorize", [Alternative("svd, rank 4", {"layer": "big", "method": "svd", "rank": 4})], ["big"]
)
BITS = Part.of("bits of big", "quantize", [Alternative("4 bits", {"layer": "big", "precision": "int4"})], ["big"])
PARTS = [WIDTH, FORM, BITS]
TABLES = [
    CostTable("conv", ("width of conv",), {"macs": [160, 120, 80], "tflite_bytes": [400, 300, 200]}),
    CostTable("big", ("form of big", "bits of big"), {"macs": [[100, 100], [40, 40]],
                                                      "tflite_bytes": [[600, 300], [240, 120]]}),
]  # fmt: skip
DAMAGES = Damages(
    {"width of conv": np.array([0, 0.02, 0.2]), "form of big": np.array([0, 0.1]), "bits of big": np.array([0, 0.05])},
    {}, {}, 100, 50,
)  # fmt: skip


def candidate(**figures):
    known = {"params": 100, "tflite_bytes": 1000, "gzip_bytes": 800, "macs": 260, "peak_memory": 50, **figures}
    return Candidate("one", "accuracy", known.pop("quality", 0.9), **known)


def task_of(tmp_path=None, **limits):
    from tfstruct.compression.folder import WorkingFolder

    return types.SimpleNamespace(
        original=candidate(), plain=candidate(), limits=Limits(limits, None, "accuracy"),
        settings=types.SimpleNamespace(epochs=20, seed=0), measure=types.SimpleNamespace(reference_us=100.0),
        progress=types.SimpleNamespace(stage=lambda name: None),
        folder=None if tmp_path is None else WorkingFolder(tmp_path),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def within(monkeypatch):
    """Drafts are within all limits."""
    monkeypatch.setattr(choosing, "_drafted", lambda task, parts, choice: {})


def test_the_least_damage_within_all_limits_first():
    found = choose_strategies(task_of(macs=230, tflite_bytes=700), PARTS, TABLES, DAMAGES)
    assert found[0].choice.picked == {"width of conv": 1, "form of big": 0, "bits of big": 1}
    assert found[0].choice.damage == pytest.approx(0.07)
    losses = [one.choice.damage for one in found]
    assert losses == pytest.approx([0.07, 0.1])  # the other one does without a width, and without 4 bits
    assert found[1].choice.picked == {"width of conv": 0, "form of big": 1, "bits of big": 0}
    kinds = [step.kind for step in found[0].steps]
    assert kinds == ["optimize", "prune_channels", "quantize"]
    optimize, prune, quantize = found[0].steps
    assert prune.widths == {"conv": 12} and quantize.layers == {"big": "int4"}
    assert (optimize.epochs, prune.epochs, quantize.epochs) == (0, 17, 3)
    assert prune.reason == "width of conv: 12 channels (loses 0.02)"
    assert choosing.Chosen.from_dict(json.loads(json.dumps(found[0].to_dict()))) == found[0]
    said = {(one.kind, one.taken): one.reason for one in found[0].decisions}
    assert "least predicted loss, 0.07, measured on 50 held-out samples after 100 steps" in said["auto", True]
    assert "macs 220 of 230" in said["auto", True] and "1 kB more of tflite_bytes" in said["auto", True]
    assert said["factorize", False] == "all that it offers loses more for what it saves"


def test_where_a_choice_loses_most_its_network_is_tried_from_scratch():
    task = task_of(macs=230, tflite_bytes=700)
    *others, last = choose_strategies(task, PARTS, TABLES, dataclasses.replace(DAMAGES, nothing=0.1), short=1)
    assert len(others) == 2 and last.choice == others[0].choice
    optimize, prune, scratch, quantize = last.steps
    assert [step.kind for step in last.steps] == ["optimize", "prune_channels", "from_scratch", "quantize"]
    # 20 epochs without those of three short trainings.
    assert (optimize.epochs, prune.epochs, scratch.epochs, quantize.epochs) == (0, 0, 14, 3)
    assert others[0].steps == (optimize, prune.replace(epochs=14), quantize)
    assert scratch.reason.startswith("the choice loses 70% of what a network loses that knows nothing")
    assert last.decisions[-1].kind == "from_scratch"
    assert len(choose_strategies(task, PARTS, TABLES, dataclasses.replace(DAMAGES, nothing=0.2))) == 2
    assert len(choose_strategies(task, PARTS, TABLES, dataclasses.replace(DAMAGES, nothing=0.1), count=1)) == 1


def test_what_is_given_excluded_or_could_not_be_made():
    task = task_of(macs=230, tflite_bytes=700)
    (one,) = choose_strategies(task, PARTS, TABLES, DAMAGES, fixed={"form of big": 1}, count=1)
    assert one.choice.picked["form of big"] == 1
    (one,) = choose_strategies(task, PARTS, TABLES, DAMAGES, excluded=[("bits of big", 1)], count=1)
    assert one.choice.picked == {"width of conv": 0, "form of big": 1, "bits of big": 0}
    failed = Damages(DAMAGES.parts, {}, {("bits of big", 1): "no kernel"}, 100, 50)
    (one,) = choose_strategies(task, PARTS, TABLES, failed, count=1)
    assert one.choice.picked["bits of big"] == 0
    assert one.decisions[-1].reason == "could not be made: bits of big: 4 bits: no kernel"
    (one,) = choose_strategies(task, PARTS, TABLES, DAMAGES, count=1, lacking=("CONV_2D",))
    assert one.decisions[-1].reason == "the latency table lacks CONV_2D: forms that need it are not taken"
    with pytest.raises(BudgetError, match="least that each limit can be alone: macs 120"):
        choose_strategies(task_of(macs=100), PARTS, TABLES, DAMAGES)


def test_where_a_draft_exceeds_a_limit_another_is_chosen(monkeypatch):
    asked = []

    def drafted(task, parts, choice):
        asked.append(choice.picked)
        return {"tflite_bytes": 1.2 if len(asked) == 1 else 0.99}

    monkeypatch.setattr(choosing, "_drafted", drafted)
    (one,) = choose_strategies(task_of(tflite_bytes=700), PARTS, TABLES, DAMAGES, count=1)
    assert len(asked) == 2 and asked[0] != asked[1]
    assert one.choice.figures["tflite_bytes"] <= 0.98 / 1.2 * 700


def test_a_figure_that_no_table_has_is_said():
    (one,) = choose_strategies(task_of(macs=230, params=50), PARTS, TABLES, DAMAGES, count=1)
    assert one.decisions[-1].reason == "params cannot be predicted: what is chosen may miss it"


def test_limits_of_gzip_are_those_of_bytes():
    assert planned_limits(task_of(gzip_bytes=400)) == {"tflite_bytes": 500}


@pytest.mark.parametrize("epochs, counts", [(20, (0, 0, 19, 1)), (2, (0, 0, 1, 1)), (1, (0, 0, 0, 1)), (0, (0,) * 4)])
def test_epochs_go_to_the_last_edit_and_to_the_rounding(epochs, counts):
    choice = Choice({"width of conv": 1, "form of big": 1, "bits of big": 0}, 0.1)
    made = strategy_of(PARTS, choice, epochs)
    assert [step.kind for step in made] == ["optimize", "factorize", "prune_channels", "quantize"]
    assert tuple(step.epochs for step in made) == counts
    nothing = strategy_of(PARTS, Choice(dict.fromkeys(choice.picked, 0), 0.0), epochs)
    assert [step.epochs for step in nothing] == [0, epochs] and nothing[-1] == steps.Quantize(
        precision="int8", epochs=epochs
    )


@pytest.mark.parametrize(
    "results, best",
    [([(690, 0.8), (690, 0.85)], 1), ([(690, 0.85), (690, 0.8)], 0), ([(690, 0.7), (790, 0.95)], 0)],
)
def test_the_choice_that_leaves_most_after_a_short_training_goes_on(monkeypatch, tmp_path, results, best):
    carried = []

    def carry_out(task, strategy, folder):
        carried.append((strategy, folder.path.name))
        size, quality = results[len(carried) - 1]
        return StrategyResult(None, None, None, candidate(tflite_bytes=size, quality=quality, macs=220), ())

    monkeypatch.setattr(choosing, "carry_out", carry_out)
    task = task_of(tmp_path, macs=230, tflite_bytes=700)
    chosen = choose_strategies(task, PARTS, TABLES, DAMAGES, count=2)
    found, tried = best_of(task, chosen)
    assert found.steps == chosen[best].steps and len(tried) == 2
    assert f"choice {best + 1} is best after 1 epoch" in found.decisions[0].reason
    assert [name for _, name in carried] == ["tried-0", "tried-1"] and found.tried.path.name == f"tried-{best}"
    assert all(sum(step.epochs for step in strategy) == 1 for strategy, _ in carried)


def test_what_was_decided_on_is_read_the_second_time(monkeypatch, tmp_path):
    measured = []
    monkeypatch.setattr(choosing, "measured", lambda task, steps: measured.append(steps) or known)
    monkeypatch.setattr(choosing, "best_of", lambda task, chosen, folder: (chosen[0], ()))
    known = Measured(PARTS, TABLES, DAMAGES, ())
    task = task_of(tmp_path, macs=230, tflite_bytes=700)
    first = choosing.measured_strategy(task, steps=5, tried=1)
    assert choosing.measured_strategy(task, steps=5, tried=1) == first and measured == [5]
    monkeypatch.setattr(front_strategies, "measured", lambda task, steps: measured.append(steps) or known)
    smaller = front_strategies.front_strategies(task, (1.0, 0.9), steps=5)
    assert front_strategies.front_strategies(task, (1.0, 0.9), steps=5) == smaller and measured == [5, 5]
    assert smaller[0] == tuple(step.replace(reason="") for step in first.steps)
    assert [Step.from_dict(step.to_dict()) for step in smaller[1]] == [*smaller[1]] and smaller[1] != smaller[0]


@pytest.mark.slow
def test_from_a_task_to_a_model_within_its_budget(tmp_path, monkeypatch):
    import keras

    from tfstruct import compress

    monkeypatch.undo()  # drafts are measured
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="one")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="two")(x)
    x = keras.layers.GlobalAveragePooling2D(name="gap")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="head")(x))
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    images = (rng.normal(size=(400, 8, 8, 3)) + y[:, None, None, None]).astype("float32")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, y, epochs=5, verbose=0)
    data = (images[:300], y[:300]), (images[300:], y[300:])

    def made():
        return compress(
            model,
            *data,
            "macs=50%,tflite_bytes=80%,latency_us=1000000",
            epochs=12,
            workdir=tmp_path,
        )

    once = made()
    report = once.report
    assert report.met and report.result.macs <= report.limits.figures["macs"]
    (why,) = [one.reason for one in report.decisions if "least predicted loss" in one.reason]
    predicted = float(why.split("macs ")[1].split(" of")[0].replace(",", ""))
    assert predicted == pytest.approx(report.result.macs, rel=0.01)
    tried = any("is best after 1 epoch" in one.reason for one in report.decisions)
    assert sum(stage.step.epochs for stage in report.stages) in ((9, 10) if tried else (12,))
    again = made()  # all of it is read from the folder
    for one, other in zip(once.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_budget_without_a_figure_is_refused():
    with pytest.raises(BudgetError, match="the budget has none but the quality"):
        choosing.measured_strategy(task_of())


def test_rivals_are_of_another_kind_and_lose_little_more():
    positions = Part.of(
        "positions from conv", "downsample_early", [Alternative("strides", {"layer": "conv"})], ["conv"]
    )
    parts = [*PARTS, positions]
    tables = [
        CostTable("conv", ("width of conv", "positions from conv"), {"macs": [[160, 40], [120, 30], [80, 20]]}),
        TABLES[1],
    ]

    def chosen(damage):
        losses = {**DAMAGES.parts, positions.name: np.array([0, damage])}
        return choose_strategies(task_of(macs=200), parts, tables, Damages(losses, {}, {}, 100, 50))

    first, second = chosen(0.12)
    assert [*first.choice.changes(parts)] == [FORM]
    assert [*second.choice.changes(parts)] == [positions]
    assert len(chosen(0.2)) == 1  # it loses twice as much
