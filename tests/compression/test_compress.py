"""From a trained model and a budget to the file: met or refused, in words, and resumable."""

import contextlib
import json

import contracts
import keras
import numpy as np
import pytest

import tfstruct
from tfstruct import demo
from tfstruct.compression import Candidate, CompressionReport, Settings, Task, carry_out, steps
from tfstruct.compression.strategy import decide
from tfstruct.errors import BudgetError, ModelError, RecipeError

layers = keras.layers
QUICK = Settings(epochs=2, batch_size=16, learning_rate=1e-2, seed=1)


def small(seed: int = 0) -> keras.Model:
    """A convolutional classifier with a residual block and dropout, trained for a moment."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(inputs)
    y = layers.Conv2D(16, 3, padding="same", use_bias=False, name="inner")(x)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.9, name="norm")(y))
    y = layers.Conv2D(16, 3, padding="same", name="back")(y)
    x = layers.Add(name="join")([x, layers.Activation("linear", name="nothing")(y)])
    x = layers.Dropout(0.1, name="drop")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x), name="small")
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(*contracts.data(256), epochs=8, batch_size=32, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def data():
    return contracts.data(128, seed=1), contracts.data(64, seed=2)


def task(model, data, budget, process, **options):
    return Task(model, *data, budget, **{"settings": QUICK, "process": process, **options})


@pytest.fixture
def one_process(process, monkeypatch):
    """`compress` starts no converter of its own."""
    monkeypatch.setattr("tfstruct.compression.task.ConverterProcess", lambda: contextlib.nullcontext(process))


def test_the_whole_chain_on_the_digits(digits_model, tmp_path, one_process):
    (x, y), test = demo.digits()
    told = []
    made = tfstruct.compress(
        digits_model, (x[:1000], y[:1000]), (x[1000:], y[1000:]), "accuracy_drop=5%,macs=60%,tflite_bytes=80%",
        test=test, epochs=4, learning_rate=3e-3, progress=told.append, workdir=tmp_path / "work",
    )  # fmt: skip
    report = made.report
    assert report.met and report.limits.misses(report.result) == ()
    assert report.result.macs <= 0.6 * report.original.macs
    assert len(made.file.content) == report.result.tflite_bytes <= 0.8 * report.plain.tflite_bytes
    assert [stage.step.kind for stage in report.stages] == ["optimize", "prune_channels", "quantize"]
    assert sum(stage.step.epochs for stage in report.stages) == 4
    assert all(decision.reason for decision in report.decisions)
    # The file is what the twin computes, and the report's figures are the file's.
    out, twin = made.file.predict(test[0]), made.twin.predict(test[0], verbose=0)
    assert np.mean(out.argmax(1) == twin.argmax(1)) > 0.99
    assert report.test["result"] == pytest.approx(np.mean(out.argmax(1) == test[1]))
    assert report.test["original"] == pytest.approx(
        np.mean(digits_model.predict(test[0], verbose=0).argmax(1) == test[1])
    )
    assert report.widths["conv1"] == (16, made.model.get_layer("conv1").filters)
    assert CompressionReport.from_json(report.to_json()) == report
    assert {"prune_channels", "quantize", "test"} <= {one.stage for one in told}
    assert told[-1].best.tflite_bytes == report.result.tflite_bytes and "left" in str(told[-1])
    # Called again, it reads what it did.
    again = tfstruct.compress(
        digits_model, (x[:1000], y[:1000]), (x[1000:], y[1000:]), "accuracy_drop=5%,macs=60%,tflite_bytes=80%",
        test=test, epochs=4, learning_rate=3e-3, workdir=tmp_path / "work",
    )  # fmt: skip
    assert again.file.content == made.file.content and again.report.result == report.result
    made.save(tmp_path / "made")
    loaded = keras.models.load_model(tmp_path / "made" / "twin.keras", compile=False)
    np.testing.assert_array_equal(loaded.predict(test[0], verbose=0), twin)
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == [
        "model.keras", "model.tflite", "report.json", "twin.keras",
    ]  # fmt: skip
    with pytest.raises(FileExistsError, match="exists already"):
        made.save(tmp_path / "made")
    with pytest.raises(RecipeError, match="belongs to another run: its budget differ"):
        tfstruct.compress(
            digits_model, (x[:1000], y[:1000]), (x[1000:], y[1000:]), "macs=60%", epochs=4, learning_rate=3e-3,
            workdir=tmp_path / "work",
        )  # fmt: skip


class Killed(Exception):
    """Raised in the middle of a stage."""


def test_a_killed_run_goes_on_to_the_same_result(model, data, process, tmp_path):
    settings = Settings(epochs=6, batch_size=16, learning_rate=1e-2)
    options = {"settings": settings}

    def go(folder, stop_at=None):
        with task(model, data, "macs=60%", process, workdir=folder, **options) as one:
            if stop_at is not None:
                counted, step = [], one.told.step

                def stopping():
                    counted.append(1)
                    if len(counted) == stop_at:
                        raise Killed
                    step()

                one.told.step = stopping
            return carry_out(one, [steps.PruneChannels(budget={"macs": 0.6}, ramp=0.5), "quantize"])

    whole = go(tmp_path / "whole")
    # 8 steps an epoch: while channels go, while what stays trains, and in the quantized epochs.
    for stop_at in (12, 8, 8):
        with pytest.raises(Killed):
            go(tmp_path / "killed", stop_at)
    resumed = go(tmp_path / "killed")
    assert resumed.file.content == whole.file.content
    for a, b in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    figures = ("quality", "macs", "params", "tflite_bytes")
    assert [getattr(resumed.candidate, f) for f in figures] == [getattr(whole.candidate, f) for f in figures]


def test_a_budget_out_of_reach_is_refused_with_the_best_found(model, data, one_process):
    with pytest.raises(BudgetError, match=r"The budget is missed: .*The best found is result: accuracy") as caught:
        tfstruct.compress(
            model, *data, {"tflite_bytes": 0.2}, strategy=["optimize", steps.Quantize(epochs=0)], epochs=0
        )
    best = caught.value.best
    assert best.report.result.tflite_bytes == len(best.file.content) == caught.value.least["tflite_bytes"]


def test_what_is_decided_and_why(model, data, process):
    with task(model, data, "macs=50%", process) as one:
        plan, why = decide(one)
        assert [step.kind for step in plan] == ["optimize", "prune_channels", "quantize"]
        assert plan[1].budget == {"macs": pytest.approx(0.5 * one.original.macs)} and plan[1].gradual
        assert {d.kind: d.taken for d in why} == {
            "optimize": True, "drop_blocks": False, "share_layers": False, "factorize": False, "prune_channels": True,
            "quantize": True,
        }  # fmt: skip
        # What the user fixes stays, what is left open is filled in.
        filled, _ = decide(
            one, [steps.PruneChannels(exclude=("stem",), criterion="l1"), steps.Quantize(precision="int4")]
        )
        assert filled[0].budget == plan[1].budget and (filled[0].exclude, filled[0].criterion) == (("stem",), "l1")
        assert filled[1].precision == "int4"
    with task(model, data, "tflite_bytes=70%", process) as one:
        plan, _ = decide(one)
        assert plan[-1].tflite_bytes == pytest.approx(0.7 * one.plain.tflite_bytes)
        assert "4-bit weights" in plan[-1].reason
    with task(model, data, "tflite_bytes=70%", process, settings=Settings(epochs=2, target="ethos-u")) as one:
        plan, _ = decide(one)
        assert plan[-1].tflite_bytes is None and "ethos-u has no 4-bit weights" in plan[-1].reason
        assert "tflite_bytes" in plan[-2].budget
    with task(model, data, "accuracy_drop=1%", process, settings=Settings(epochs=8)) as one:
        plan, _ = decide(one)
        assert [step.kind for step in plan].count("prune_channels") == 4
        assert all(step.optional for step in plan if step.kind == "prune_channels")
    with task(model, data, "macs=50%", process, settings=Settings(epochs=0)) as one:
        plan, _ = decide(one)
        assert plan[0].fold and not plan[1].gradual


def test_an_optional_step_is_taken_back(model, data, process):
    with task(model, data, {"accuracy_drop": 0.0}, process) as one:
        harm = steps.PruneChannels(budget={"macs": 0.1}, gradual=False, epochs=0, optional=True)
        made = carry_out(one, [harm, harm, steps.Quantize(epochs=0)])
    assert [stage.step.kind for stage in made.stages] == ["quantize"]
    assert [why.split(":")[0] for _, why in made.dropped] == [
        "taken back",
        "the step of its kind before was taken back",
    ]
    assert made.candidate.macs == one.original.macs


def test_every_step_by_hand(model, data, process):
    """Blocks, sharing, factors: each does what it says, and the next one works on what it left."""
    with task(model, data, {"accuracy_drop": 0.5}, process) as one:
        made = carry_out(one, ["optimize", steps.Factorize(macs=0.9, epochs=1), steps.DropBlocks(epochs=1)])
    optimize, factors, blocks = made.stages
    assert optimize.changes[0][0] == "nothing"
    assert factors.candidate.macs <= 0.9 * one.original.macs and len(factors.history) == 1
    assert blocks.changes[0][0] == "join" and blocks.candidate.macs < factors.candidate.macs
    assert made.candidate.strategy == tuple(stage.step for stage in made.stages)
    assert Candidate.from_dict(json.loads(made.candidate.to_json())) == made.candidate


def test_what_has_no_graph_and_settings_out_of_range(data):
    class Hidden(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ModelError, match="subclassed model"):
        tfstruct.compress(Hidden(), *data, "macs=50%")
    for wrong, said in (
        ({"epochs": -1}, "`epochs`"),
        ({"distillation": 2}, "`distillation`"),
        ({"target": "moon"}, "moon"),
    ):
        with pytest.raises(RecipeError, match=said):
            tfstruct.compress(small, *data, "macs=50%", **wrong)
    with pytest.raises(RecipeError, match="'auto', or a list"):
        tfstruct.compress(small, *data, "macs=50%", strategy="best")
    with pytest.raises(RecipeError, match="at least one step"):
        tfstruct.compress(small, *data, "macs=50%", strategy=[])
