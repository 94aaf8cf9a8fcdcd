"""Channels at zero by the end of training, removed by `shrink` without loss, within the budget."""

import json

import contracts
import graph_zoo
import keras
import numpy as np
import pytest
from zoo import randomise

from tfstruct.analyze.costs import Costs
from tfstruct.callbacks import Prune, PruneChannels
from tfstruct.callbacks.channel_factors import ChannelFactors
from tfstruct.errors import BudgetError, DataError, ModelError, PlanError
from tfstruct.graph import trace
from tfstruct.schedules import AutomaticRatio, ConstantRatio, OneShot, PolynomialRatio
from tfstruct.surgery import plan_channels, shrink

layers = keras.layers
AT_ONCE = OneShot(0.5)
SOON = PolynomialRatio(0.0, 0.5, begin=0, end=6)


def build(**compiled):
    keras.utils.set_random_seed(0)
    return contracts.network(
        layers.Conv2D(8, 3, padding="same", activation="relu", name="second"), **{"optimizer": "adam", **compiled}
    )


def dense(width=4):
    """Input 2, hidden `width`, output 1; channel i has weights of i + 1."""
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(width, "relu", name="hidden"), layers.Dense(1, name="out")]
    )
    rows = np.arange(1.0, width + 1)
    model.set_weights([np.tile(rows, (2, 1)), rows, np.ones((width, 1)), np.ones(1)])
    model.compile("sgd", "mse")
    return model


def widths(model):
    return {path: len(labels) for path, labels in trace(model).makes.items()}


def assert_shrinks(model, report):
    """What `shrink` makes of it computes the same, with the widths and costs of the report."""
    found = shrink(model)
    x = np.random.default_rng(5).normal(size=(4, *model.input_shape[1:])).astype("float32")
    np.testing.assert_allclose(found.model(x), model(x), rtol=1e-5, atol=1e-5)
    left = widths(found.model)
    for row in report.groups:
        assert left[row.name] == row.after
    costs = Costs(trace(found.model))()
    assert costs == {name: report.after[name] for name in costs}
    return found.model


# What is chosen, and what happens to it


def test_units_by_hand():
    model = dense()
    pruner = PruneChannels(0.5, AT_ONCE).attach(model)
    np.testing.assert_array_equal(pruner.kept()["hidden"], [False, False, True, True])
    pruner.finish()
    kernel, bias, out, last = model.get_weights()
    np.testing.assert_array_equal(kernel, [[0, 0, 3, 4]] * 2)
    np.testing.assert_array_equal(bias, [0, 0, 3, 4])
    np.testing.assert_array_equal(out[:, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(last, [1])


def test_what_is_kept_is_asked_before_there_is_a_model():
    with pytest.raises(ModelError, match="not attached"):
        PruneChannels(0.5).kept()


def test_none_is_no_budget():
    with pytest.raises(BudgetError, match="needs a `budget`"):
        PruneChannels(None)


def test_choices_are_those_of_plan_channels():
    budget = {"macs": 0.6, "params": 0.7}
    model = build()
    plan = plan_channels(model, budget, criterion="l1", round_to=2)
    pruner = PruneChannels(budget, AT_ONCE, criterion="l1", round_to=2).attach(model)
    kept = {path: np.flatnonzero(stays).tolist() for path, stays in pruner.kept().items()}
    report = pruner.finish()
    assert kept == plan.keep
    assert report.after == plan.after
    assert report.met


def test_what_has_gone_stays_and_the_rest_is_ranked_anew():
    model = dense(8)
    pruner = PruneChannels(0.5, PolynomialRatio(0.0, 0.5, begin=0, end=4, power=1), frequency=2).attach(model)
    assert pruner.kept()["hidden"].all()
    for _ in range(2):
        pruner.step()
    np.testing.assert_array_equal(np.flatnonzero(~pruner.kept()["hidden"]), [0, 1])  # a half of a half of 8
    kernel = model.get_layer("hidden").kernel
    kernel.assign(kernel.numpy()[:, ::-1] * [0, 0, 1, 1, 1, 1, 1, 1])
    for _ in range(2):
        pruner.step()
    np.testing.assert_array_equal(np.flatnonzero(~pruner.kept()["hidden"]), [0, 1, 6, 7])
    assert [step for step, _, _ in pruner.finish().history] == [0, 2, 4]


def test_group_lasso_by_hand():
    factors = ChannelFactors(3)
    factors.chosen[1:] = True
    factors.drive(np.array([5.0, 2.0, 4.0]), strength=0.1, steps=4)
    np.testing.assert_allclose(factors.value, [1, 0.9**0.25, 0.9**0.25])
    factors.drive(np.array([5.0, 1.0, 8.0]), strength=0.1, steps=4)  # 1 - 2 * 0.1 * |w| at first / |w| now
    np.testing.assert_allclose(factors.value, [1, 0.6**0.25, 0.9**0.25])
    factors.drive(np.array([5.0, 0.5, 8.0]), strength=0.1, steps=4)
    np.testing.assert_allclose(factors.value, [1, 0, 0.85**0.25])
    factors.project()
    np.testing.assert_array_equal(factors.value, [1, 0, 0])


def test_group_lasso_lets_channels_fade():
    model = dense()
    x, y = np.zeros((4, 2), "float32"), np.ones((4, 1), "float32")  # no gradient: the output is 1 already
    model.get_layer("hidden").bias.assign(np.zeros(4))
    pruner = PruneChannels(
        0.5, PolynomialRatio(0.0, 0.5, begin=1, end=5, power=1e9), regularize="group_lasso", frequency=2, strength=0.19
    )
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(model.get_layer("hidden").kernel.numpy()[0])
    )
    model.fit(x, y, batch_size=1, epochs=2, callbacks=[watch, pruner], verbose=0)
    seen = np.array(seen)
    np.testing.assert_array_equal(seen[:, 2:], [[3, 4]] * 8)
    np.testing.assert_allclose(seen[:4, 0], [1, 1, 1, 0.9], rtol=1e-5)  # chosen at step 3: sqrt(1 - 0.19) a step
    assert 0 < seen[4, 0] < 0.9
    np.testing.assert_array_equal(seen[5:, :2], 0)  # the schedule ended with step 5


# In every kind of training


@pytest.mark.parametrize("regularize", ["projection", "group_lasso"])
@pytest.mark.parametrize("way", contracts.WAYS)
@pytest.mark.sweep(3)
def test_ways_to_train(way, regularize, second_device):
    if (way, regularize) in (("jit", "projection"), ("mirrored", "group_lasso"), ("mixed_float16", "projection")):
        pytest.skip("the other one shows it")
    pruner = PruneChannels({"macs": 0.5}, SOON, regularize=regularize, frequency=2)
    model = contracts.built(build, way)
    if way == "tape":
        pruner.attach(model)
        losses = contracts.go_on(model, way, 2, after_step=pruner.step)
        report = pruner.finish()
    else:
        losses = contracts.go_on(model, way, 2, [pruner])
        report = pruner.report
    assert np.isfinite(losses).all()
    assert report.met
    assert report.after["macs"] <= 0.5 * report.before["macs"]
    if way == "mirrored":
        contracts.assert_replicas_agree(model)
    plain = build()  # float16 rounds otherwise in another shape
    plain.set_weights(model.get_weights())
    assert_shrinks(plain, report)
    assert all(weight.constraint is None for weight in model.trainable_weights)


_SHAPES = (
    "dense", "depthwise_twice", "grouped_2", "merge_concatenate", "residuals", "squeeze_excite", "shared_dense",
    "shared_normalization", "nested_called_twice", "separable_once", "norm_batch_plain", "activations",
)  # fmt: skip


@pytest.mark.parametrize("name", _SHAPES)
@pytest.mark.sweep(6)
def test_shapes_of_models(name):
    model = randomise(graph_zoo.MODELS[name](), 0)
    report = PruneChannels({"params": 0.75}, AT_ONCE).attach(model).finish()
    assert report.met
    small = assert_shrinks(model, report)
    assert small.count_params() <= 0.75 * model.count_params()


def test_trained_residual_network():
    model = randomise(graph_zoo.MODELS["residuals"](), 0)
    model.compile("adam", "mse")
    pruner = PruneChannels({"macs": 0.6}, frequency=2)  # no schedule: 60 % of 10 steps
    x = np.random.default_rng(0).normal(size=(20, 5, 5, 3)).astype("float32")
    history = model.fit(x, np.ones((20, 2)), batch_size=4, epochs=2, callbacks=[pruner], verbose=0).history
    assert pruner.schedule.end == 6
    assert [step for step, _, _ in pruner.report.history] == [2, 4, 6]
    assert history["channels"] == sorted(history["channels"])
    assert history["channels"][-1] == pruner.report.channels > 0
    assert history["macs"][-1] == pruner.report.after["macs"] / pruner.report.before["macs"] <= 0.6
    assert_shrinks(model, pruner.report)


def test_rounded_widths_and_limits():
    model = build()
    pruner = PruneChannels(
        {"params": 0.6, "tflite_bytes": 0.85}, SOON, frequency=2, scope="local", round_to=4, min_channels={"conv": 8}
    )
    contracts.go_on(model, epochs=2, callbacks=[pruner])
    assert {row.name: row.after for row in pruner.report.groups} == {"conv": 8, "second": 4}
    assert pruner.report.met
    assert_shrinks(model, pruner.report)


def test_latency_is_measured_at_both_ends():
    model, measured = build(), []

    def latency(net):
        measured.append(net.count_params())
        return float(net.count_params())

    pruner = PruneChannels({"latency_us": 0.6}, SOON, frequency=1, latency=latency)
    pruner.attach(model)
    at_first = len(measured)
    for _ in range(5):
        pruner.step()
    assert len(measured) == at_first
    assert 0 < pruner.kept()["conv"].sum() + pruner.kept()["second"].sum() < 16
    pruner.step()
    report = pruner.finish()
    assert len(measured) > at_first
    assert report.after["latency_us"] == report.after["params"] <= 0.6 * report.before["latency_us"]
    assert report.met


# Beside other callbacks


class Killed(Exception):
    pass


@pytest.mark.parametrize("regularize", ["projection", "group_lasso"])
@pytest.mark.sweep(1)
def test_killed_and_resumed(tmp_path, regularize):
    x, y = contracts.data()

    def run(*more):
        model = build()
        pruner = PruneChannels({"macs": 0.5}, regularize=regularize, frequency=3)
        callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "backup"), pruner, *more]
        model.fit(x, y, batch_size=16, epochs=5, shuffle=False, verbose=0, callbacks=callbacks)
        return model, pruner

    def kill(epoch, logs):
        if epoch == 2:
            raise Killed

    whole, first = run()
    with pytest.raises(Killed):
        run(keras.callbacks.LambdaCallback(on_epoch_begin=kill))
    resumed, second = run()
    assert second.report == first.report
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


class Falling(keras.callbacks.Callback):
    """A figure that is best in the first epoch."""

    def on_epoch_end(self, epoch, logs=None):
        logs["quality"] = -epoch


def test_early_stopping_puts_no_channel_back():
    model = build()
    pruner = PruneChannels(0.5, OneShot(0.5, at=6))
    stopping = keras.callbacks.EarlyStopping("quality", mode="max", patience=2, restore_best_weights=True)
    contracts.go_on(model, epochs=6, callbacks=[pruner, Falling(), stopping])
    assert stopping.stopped_epoch
    assert any("put back" in note for note in pruner.report.notes)
    assert_shrinks(model, pruner.report)


def test_moving_averages_put_no_channel_back():
    model = build(optimizer=keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.9))
    pruner = PruneChannels(0.5, SOON, frequency=3)
    contracts.go_on(model, epochs=2, callbacks=[pruner])
    assert pruner.report.channels == 0.5
    assert_shrinks(model, pruner.report)


def test_a_second_fit():
    model = build(optimizer=keras.optimizers.SGD(0.05, momentum=0.9))
    pruner = PruneChannels(0.5, PolynomialRatio(0.0, 0.5, begin=0, end=8), frequency=2)
    contracts.go_on(model, epochs=1, callbacks=[pruner])
    assert not pruner.report.met
    assert "A second fit" in pruner.report.notes[0]
    half = shrink(model)
    assert sum(len(gone) for gone in half.removed.values()) > 0
    contracts.go_on(model, epochs=2, callbacks=[pruner])
    assert pruner.report.met
    assert pruner.report.channels == 0.5
    zeros = [weight == 0 for weight in model.get_weights()]
    contracts.go_on(model, epochs=1, callbacks=[pruner])
    for before, after in zip(zeros, model.get_weights(), strict=True):
        assert (after[before] == 0).all()
    assert_shrinks(model, pruner.report)


def test_a_schedule_that_listens():
    model = build()
    pruner = PruneChannels(0.5, AutomaticRatio(0.5, begin=0, end=4), frequency=2)
    x, y = contracts.data()
    model.fit(x, y, batch_size=16, epochs=2, validation_data=(x, y), callbacks=[pruner], verbose=0)
    assert pruner.report.met


def test_beside_prune():
    x, y = contracts.data()
    model = build()
    both = [Prune(0.5, layers=["conv"]), PruneChannels(0.5, SOON, exclude="conv", frequency=2)]
    with pytest.raises(ModelError, match="both want the weight"):
        # The kernel of `second` reads what `conv` makes, but it is its own channels that go.
        model.fit(x, y, callbacks=[Prune(0.5, layers=["second"]), both[1]], verbose=0)
    model = build()
    model.fit(x, y, batch_size=16, epochs=2, callbacks=both, verbose=0)
    assert (model.get_layer("conv").kernel.numpy() == 0).mean() == 0.5
    assert dict(both[1].report.left_alone)["conv"] == "excluded"
    assert {row.name: row.after for row in both[1].report.groups} == {"second": 4}
    assert_shrinks(model, both[1].report)


def test_report(tmp_path):
    model = build()
    report = PruneChannels({"macs": 0.5}, AT_ONCE).attach(model).finish()
    assert "budget (macs" in str(report)
    assert " met " in str(report)
    assert "logits: left alone, the model's own output" in str(report)
    data = json.loads(report.to_json())
    assert data["met"] is True
    assert data["groups"][0]["before"] == 8
    assert report.table().row_count == len(report.groups) + len(report.left_alone)
    report.plot().savefig(tmp_path / "widths.png")
    assert (tmp_path / "widths.png").stat().st_size > 1000


def test_groups_that_shrink_would_keep_are_left_alone():
    inputs = keras.Input((6, 3))
    x = layers.LSTM(6, name="lstm")(layers.LayerNormalization()(layers.Dense(4, name="normed")(inputs)))
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Dense(6, "relu", name="free")(x)))
    report = PruneChannels(0.5, AT_ONCE).attach(randomise(model)).finish()
    assert [row.name for row in report.groups] == ["free"]
    alone = dict(report.left_alone)
    assert "statistics" in alone["normed"]
    assert "shrink would keep" in alone["lstm"]
    assert_shrinks(model, report)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"budget": 1.5}, BudgetError, r"a share in \(0, 1\).* Received: 1.5"),
        ({"budget": {"flops": 0.5}}, BudgetError, "knows macs.* Received: flops"),
        ({"budget": {"latency_us": 0.5}}, BudgetError, "needs `latency=`"),
        ({"schedule": 0.5}, ValueError, "`schedule` says when"),
        ({"schedule": ConstantRatio(0.0)}, ValueError, "a RatioSchedule that rises"),
        ({"criterion": "size"}, ValueError, "`criterion` must be one of"),
        ({"criterion": "gradient"}, DataError, "looks at data"),
        ({"regularize": "l2"}, ValueError, "projection, group_lasso"),
        ({"frequency": 0}, ValueError, "`frequency` must be a whole number, 1 or larger"),
        ({"strength": 0.0}, ValueError, "`strength` must be a number in"),
        ({"max_ratio": 2.0}, PlanError, "`max_ratio` must be in"),
        ({"scope": "layer"}, PlanError, "`scope` must be"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        PruneChannels(**{"budget": 0.5, **arguments})


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_bad_models():
    own = Subclassed()
    own(np.zeros((1, 2)))
    for model, message in (
        (own, "subclassed model"),
        (keras.Sequential([layers.Dense(3)]), "not built"),
        (keras.Sequential([keras.Input((2,)), layers.Dense(3)]), "no channels that can be pruned without loss"),
    ):
        with pytest.raises(ModelError, match=message):
            PruneChannels(0.5, AT_ONCE).attach(model)


def test_a_budget_out_of_reach_is_an_error_before_training():
    model = build()
    weights = model.get_weights()
    pruner = PruneChannels({"macs": 0.01}, AT_ONCE)
    with pytest.raises(BudgetError, match=r"least reachable.*Left alone: logits"):
        contracts.go_on(model, callbacks=[pruner])
    assert all(weight.constraint is None for weight in model.trainable_weights)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(PlanError, match="names `stem`"):
        PruneChannels(0.5, AT_ONCE, exclude="stem").attach(model)


def test_steps_that_are_not_known():
    model = dense()
    pruner = PruneChannels(0.5).attach(model)
    with pytest.raises(ModelError, match="give it a `schedule`"):
        pruner.step()


def test_a_step_traced_before_is_found_out():
    model = build()
    pruner = PruneChannels(0.5, AT_ONCE).attach(model)
    model.get_layer("conv").kernel.assign(np.ones(model.get_layer("conv").kernel.shape))
    with pytest.raises(ModelError, match="traced before"):
        pruner.step()
