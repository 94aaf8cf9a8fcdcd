"""From a trained model and a budget to the file: met or refused, in words, and resumable."""

import json
import types

import keras
import numpy as np
import pytest
from small_tasks import points
from sweeps import sweep

import tfstruct
from tfstruct import demo
from tfstruct.compression import (
    Budget,
    Candidate,
    CompressionReport,
    Settings,
    Task,
    carry_out,
    compressing,
    step_context,
    steps,
)
from tfstruct.compression.budget import Limits
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.strategy import decide
from tfstruct.errors import BudgetError, DataError, ModelError, RecipeError

layers = keras.layers
QUICK = Settings(epochs=2, batch_size=16, learning_rate=1e-2, seed=1)


def small() -> keras.Model:
    """A residual network with dropout, trained for a moment."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    x = layers.Dense(16, activation="relu", name="stem")(inputs)
    y = layers.Dense(32, use_bias=False, name="inner")(x)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.9, name="norm")(y))
    y = layers.Dense(16, name="back")(y)
    x = layers.Add(name="join")([x, layers.Activation("linear", name="nothing")(y)])
    x = layers.Dropout(0.1, name="drop")(x)
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x), name="small")
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(*points(256, 0), epochs=5, batch_size=32, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def data():
    return points(128, 1), points(64, 2)


@pytest.mark.slow
def test_the_whole_chain_on_the_digits(digits_model, tmp_path):
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
    kinds = [stage.step.kind for stage in report.stages]
    assert kinds[0] == "optimize" and kinds[-1] == "quantize" and len(kinds) > 2
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
    assert {"measure alternatives", "choose", *kinds, "test"} <= {one.stage for one in told}
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
        "README.md", "model.keras", "model.tflite", "report.html", "report.json", "twin.keras",
    ]  # fmt: skip
    with pytest.raises(FileExistsError, match="exists already"):
        made.save(tmp_path / "made")
    with pytest.raises(RecipeError, match="belongs to another run: its budget differ"):
        tfstruct.compress(
            digits_model, (x[:1000], y[:1000]), (x[1000:], y[1000:]), "macs=60%", epochs=4, learning_rate=3e-3,
            workdir=tmp_path / "work",
        )  # fmt: skip


@pytest.fixture(scope="module")
def measured(model, data, process):
    """A task whose budget can be exchanged."""
    with Task(model, *data, "macs=50%", settings=QUICK, process=process) as one:
        yield one


@pytest.fixture
def decided(measured, monkeypatch):
    def decided(budget, given=None, **settings):
        monkeypatch.setattr(measured, "limits", Budget.of(budget).limits(measured.original, measured.plain))
        monkeypatch.setattr(measured, "settings", Settings(**{"epochs": 2, **settings}))
        return decide(measured, given)

    return decided


def test_what_is_decided_and_why(measured, decided):
    plan, why = decided("macs=50%")
    assert [step.kind for step in plan] == ["optimize", "prune_channels", "quantize"]
    assert plan[1].budget == {"macs": pytest.approx(0.5 * measured.original.macs)} and plan[1].gradual
    assert {d.kind: d.taken for d in why} == {
        "optimize": True, "downsample_early": False, "drop_blocks": False, "share_layers": False, "factorize": False,
        "prune_channels": True, "quantize": True,
    }  # fmt: skip
    assert why[1].reason == "channels are enough for what would get smaller by it"
    assert "changes what passes it by" in why[2].reason and why[3].reason.startswith("sharing saves parameters only")


def test_what_the_user_fixes_stays_and_what_is_open_is_filled_in(decided):
    asked = [steps.PruneChannels(exclude=("stem",), criterion="l1"), steps.Quantize(precision="int4")]
    plan, _ = decided("macs=50%", asked)
    assert plan[0] == asked[0].replace(budget=decided("macs=50%")[0][1].budget) and plan[1] == asked[1]


def test_a_smaller_file_by_four_bits_where_the_target_has_them(measured, decided):
    plan, _ = decided("tflite_bytes=97%")
    assert plan[-1].tflite_bytes == pytest.approx(0.97 * measured.plain.tflite_bytes)
    assert "4-bit weights" in plan[-1].reason and [step.kind for step in plan] == ["optimize", "quantize"]
    plan, _ = decided("tflite_bytes=97%", target="ethos-u")
    assert plan[-1].tflite_bytes is None and "ethos-u has no 4-bit weights" in plan[-1].reason
    assert "tflite_bytes" in plan[-2].budget
    plan, _ = decided("tflite_bytes=85%")  # 4 bits are not enough
    assert [step.kind for step in plan] == ["optimize", "prune_channels", "quantize"]


def test_without_a_figure_channels_go_as_long_as_the_drop_allows(decided):
    plan, why = decided("accuracy_drop=1%", epochs=8)
    rungs = [step for step in plan if step.kind == "prune_channels"]
    assert len(rungs) == 4 and all(step.optional and step.budget == {"macs": 0.75} for step in rungs)
    assert "up to 4 times a quarter" in why[-2].reason


def test_without_training_everything_is_folded_and_done_at_once(decided):
    plan, _ = decided("macs=50%", epochs=0)
    assert plan[0].fold and not plan[1].gradual


def test_blocks_go_where_channels_are_not_enough(decided):
    plan, why = decided("params=4%")
    assert plan[1].kind == "drop_blocks" and plan[1].blocks == ("join",)
    assert "channels alone do not meet the budget" in why[2].reason


@pytest.mark.parametrize("strides", [1, 2])
def test_what_leaves_most_goes(strides, process):
    """Two blocks: the first is most of the work, and few of the weights. It goes, where it cannot be made to work on
    fewer positions, as the layer before it has strides."""
    inputs = x = keras.Input((16 * strides, 16 * strides, 3))
    for number, width in ((1, 8), (2, 32)):
        first = strides if number == 1 else 4
        x = layers.Conv2D(width, 3, first, "same", activation="relu", name=f"stem{number}")(x)
        y = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"inner{number}")(x)
        x = layers.Add(name=f"join{number}")([x, layers.Conv2D(width, 3, padding="same", name=f"back{number}")(y)])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x))
    rng = np.random.default_rng(0)
    data = rng.normal(size=(32, *inputs.shape[1:])).astype("float32"), rng.integers(0, 4, 32)
    with Task(model, data, data, "macs=2%", settings=QUICK, process=process) as task:
        plan, why = decide(task)
    if strides == 1:
        assert plan[1] == steps.DownsampleEarly(layer="stem1", reason=why[1].reason)
        assert why[1].reason.endswith("with the strides of stem2 in stem1 they do")
        assert why[2].reason.startswith("downsampling early leaves more: ")
        return
    assert plan[1] == steps.DropBlocks(blocks=("join1",), reason=why[2].reason)
    assert why[2].reason.startswith("channels alone do not meet the budget; these change least for what they cost")


class Killed(Exception):
    """Raised in the middle of a stage."""


KILLS = {"while channels go": (5,), "in the quantized epochs too": (5, 12, 10)}


@pytest.mark.parametrize("when", sweep(KILLS, ["while channels go"]))
def test_a_killed_run_goes_on_to_the_same_result(when, measured, monkeypatch, tmp_path):
    trained = when != "while channels go"
    strategy = [steps.PruneChannels(budget={"macs": 0.6}, epochs=2), steps.Quantize(epochs=int(trained))]

    def go(name, stop_at=None):
        counted = []

        def step():
            counted.append(1)
            if len(counted) == stop_at:
                raise Killed

        monkeypatch.setattr(measured.progress, "step", step)
        return carry_out(measured, strategy, WorkingFolder(tmp_path / name))

    whole = go("whole")
    for stop_at in KILLS[when]:  # of 8 steps an epoch
        with pytest.raises(Killed):
            go("killed", stop_at)
    resumed = go("killed")
    assert resumed.file.content == whole.file.content
    for a, b in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    figures = ("quality", "macs", "params", "tflite_bytes")
    assert [getattr(resumed.candidate, f) for f in figures] == [getattr(whole.candidate, f) for f in figures]
    with pytest.raises(RecipeError, match="holds the work of another strategy"):
        carry_out(measured, [steps.PruneChannels(budget={"macs": 0.5})], WorkingFolder(tmp_path / "whole"))


def test_a_long_training_goes_on_from_the_weights_of_a_short_one(measured, tmp_path, monkeypatch):
    def made(folder, epochs, tried=None):
        strategy = [steps.PruneChannels(widths={"inner": 16}, epochs=epochs), steps.Quantize(epochs=0)]
        return carry_out(measured, strategy, WorkingFolder(tmp_path / folder), tried=tried)

    short = made("short", 1).model.get_weights()
    began = []
    monkeypatch.setattr(step_context, "fit", lambda model, data, **_: began.append(model.get_weights()) or [])
    made("long", 2, WorkingFolder(tmp_path / "short"))
    made("alone", 2)
    made("after nothing", 2, WorkingFolder(tmp_path / "nowhere"))
    for weights, others in zip(began[0], short, strict=True):
        np.testing.assert_array_equal(weights, others)
    assert any((a != b).any() for a, b in zip(began[1], short, strict=True))
    for weights, others in zip(began[1], began[2], strict=True):
        np.testing.assert_array_equal(weights, others)


def test_rounding_whose_training_only_harms_is_taken_back(measured, tmp_path):
    def made(precision):
        strategy = [steps.Quantize(precision=precision, epochs=1, rate=3.0)]
        return carry_out(measured, strategy, WorkingFolder(tmp_path / precision))

    back, kept = made("int8"), made("int4")
    assert back.twin is None and back.candidate.quality == measured.plain.quality > kept.candidate.quality
    assert back.stages[0].skipped[-1][1].startswith("training with the rounding is taken back: accuracy ")
    assert kept.twin is not None and kept.file.report.precision == "int4"
    for weights, others in zip(back.model.get_weights(), measured.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, others)


@pytest.mark.parametrize("given, part", [({}, 100), ({"layers": {"inner": "int4"}}, 10), ({"rate": 0.02}, 0.5)])
def test_the_rate_of_rounding(measured, tmp_path, monkeypatch, given, part):
    def train(*_, rate, **__):
        raise Killed(rate)

    monkeypatch.setattr(StepContext, "train", train)
    step = steps.Quantize(precision="int8", epochs=1, **given)
    with pytest.raises(Killed) as asked:
        step.run(StepContext(measured, measured.model, WorkingFolder(tmp_path), 1))
    assert asked.value.args == (pytest.approx(measured.settings.learning_rate / part),)


def test_an_optional_step_is_taken_back(measured, decided, tmp_path):
    decided({"accuracy_drop": 0.0})
    harm = steps.PruneChannels(budget={"macs": 0.1}, gradual=False, epochs=0, optional=True)
    made = carry_out(measured, [harm, harm, steps.Quantize(epochs=0)], WorkingFolder(tmp_path))
    assert [stage.step.kind for stage in made.stages] == ["quantize"]
    assert [why.split(":")[0] for _, why in made.dropped] == [
        "taken back",
        "the step of its kind before was taken back",
    ]
    assert made.candidate.macs == measured.original.macs


def test_early_downsampling_and_ranks_by_hand(process, tmp_path):
    """Without epochs each step is the edit, and batch norms measured on what there is."""
    inputs = keras.Input((16, 16, 3))
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, padding="same", name="stem")(inputs)))
    x = layers.Conv2D(8, 3, 2, "same", activation="relu", name="down")(x)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="wide")(x)
    model = keras.Model(inputs, layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(0)
    x = rng.normal(1, 3, size=(32, 16, 16, 3)).astype("float32")
    strategy = [
        steps.DownsampleEarly(layer="stem", epochs=0),
        steps.Factorize(rank={"wide": 5}, method="spatial", epochs=0),
        steps.Quantize(epochs=0),
    ]
    assert [steps.Step.from_dict(json.loads(json.dumps(step.to_dict()))) for step in strategy] == strategy
    with Task(model, (x, rng.integers(0, 4, 32)), (x, rng.integers(0, 4, 32)), "macs=50%", settings=QUICK,
              process=process) as task:  # fmt: skip
        made = carry_out(task, strategy, WorkingFolder(tmp_path))
    early, factors, _ = made.stages
    assert dict(early.changes) == {"stem": "strides 1 -> (2, 2)", "down": "strides (2, 2) -> 1"}
    assert early.candidate.macs < task.original.macs and early.candidate.params == task.original.params
    assert factors.details["wide"]["rank"] == [5] and factors.candidate.params < early.candidate.params
    stem = model.get_layer("stem")
    expected = keras.ops.mean(keras.ops.conv(x, stem.kernel, 2, "same") + stem.bias, axis=(0, 1, 2))
    np.testing.assert_allclose(made.model.get_layer("norm").moving_mean, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_every_step_by_hand(measured, decided, tmp_path):
    """Factors and blocks: each does what it says, and the next one works on what it left."""
    decided({"accuracy_drop": 0.5})
    strategy = ["optimize", steps.Factorize(macs=0.9, epochs=1), steps.DropBlocks(epochs=1)]
    made = carry_out(measured, strategy, WorkingFolder(tmp_path))
    optimize, factors, blocks = made.stages
    assert optimize.changes[0][0] == "nothing"
    assert factors.candidate.macs <= 0.9 * measured.original.macs and len(factors.history) == 1
    assert blocks.changes[0][0] == "join" and blocks.candidate.macs < factors.candidate.macs
    assert made.candidate.strategy == tuple(stage.step for stage in made.stages)
    assert Candidate.from_dict(json.loads(made.candidate.to_json())) == made.candidate


def test_a_quality_that_nothing_limits_and_that_falls_is_warned_of(measured, decided):
    decided({"macs": 0.9})
    whole = measured.original.replace(quality=0.8, greater_is_better=True)
    task = types.SimpleNamespace(limits=measured.limits, original=whole)
    assert compressing._doubt(task, whole.replace(quality=0.77)) == ""
    said = compressing._doubt(task, whole.replace(quality=0.7))
    assert "is 0.7, of the original 0.8, and the budget limits no loss of it: give `accuracy_drop` too" in said
    error = whole.replace(greater_is_better=False, metric="loss")
    task.original = error
    assert "loss on the validation data is 0.9" in compressing._doubt(task, error.replace(quality=0.9))
    assert compressing._doubt(task, error.replace(quality=0.7)) == ""
    decided({"macs": 0.9, "accuracy_drop": 0.5})
    task.limits = measured.limits
    assert compressing._doubt(task, error.replace(quality=0.9)) == ""


def with_4_bits(candidate: Candidate) -> bool:
    return any(step.uses_four_bits for step in candidate.strategy)


@pytest.mark.slow
def test_the_better_of_two_where_both_miss_the_budget(model, data, monkeypatch):
    monkeypatch.setattr(Limits, "good_enough", lambda self, candidate: False)
    with pytest.raises(BudgetError) as caught:
        tfstruct.compress(model, *data, "tflite_bytes=97%,accuracy_drop=90%", epochs=1, batch_size=16)
    report = caught.value.best.report
    chosen, other = report.candidates[-1], report.candidates[-1 - len(report.stages)]  # their last stages
    assert with_4_bits(chosen) != with_4_bits(other)
    excess = report.limits.excess(chosen), report.limits.excess(other)
    assert excess[0] < excess[1] or (excess[0] == excess[1] and chosen.quality >= other.quality)
    assert {d.taken for d in report.decisions if d.kind == "auto"} == {with_4_bits(other)}


@pytest.mark.slow
def test_without_4_bits_where_these_miss_the_budget(model, data, monkeypatch, tmp_path):
    monkeypatch.setattr(Limits, "good_enough", lambda self, candidate: not with_4_bits(candidate))
    asked = {"epochs": 1, "batch_size": 16, "workdir": tmp_path / "work"}
    made = tfstruct.compress(model, *data, "tflite_bytes=97%,accuracy_drop=90%", **asked)
    why = made.report.decisions[0]
    assert why.kind == "auto" and why.taken and "with weights of 4 bits, missed the budget: accuracy" in why.reason
    assert made.report.met and made.report.stages[-1].step.tflite_bytes is None
    assert "weights of 4 bits were tried" in made.report.stages[-1].step.reason
    again = tfstruct.compress(model, *data, "tflite_bytes=97%,accuracy_drop=90%", **asked)  # read from the folder
    assert again.file.content == made.file.content and again.report.decisions == made.report.decisions


def test_what_has_no_graph_and_settings_out_of_range(model, data):
    class Hidden(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ModelError, match="subclassed model"):
        tfstruct.compress(Hidden(), *data, "macs=50%")
    inputs = keras.Input((None, None, 3))
    with pytest.raises(DataError, match=r"expected shape \(any, any, 3\)"):  # those of the data do not fit
        tfstruct.compress(keras.Model(inputs, keras.layers.GlobalMaxPooling2D()(inputs)), *data, "macs=50%")
