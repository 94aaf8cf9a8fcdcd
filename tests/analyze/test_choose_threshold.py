"""The curve against NumPy, planted channels found, folds, limits, and the plan that the threshold makes."""

import json
import math

import contracts
import keras
import numpy as np
import pytest
import zoo
from keras import layers

from tfstruct.analyze import choose_threshold, cross_validation, importance
from tfstruct.errors import DataError, ModelError
from tfstruct.graph import trace
from tfstruct.surgery import Plan, apply, plan_channels, recalibrate_batch_norm
from tfstruct.surgery.pruning.plan import units_of

USELESS = (1, 4, 6)


@pytest.fixture
def model():
    """Eight hidden units, three of which are small and read by nobody: |w| of 0.1 to 0.3, the others' is 1 to 5."""
    rng = np.random.default_rng(0)
    made = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, activation="relu", name="hidden"), layers.Dense(1, name="head")],
        name="planted",
    )
    kernel, head = rng.normal(size=(6, 8)), rng.normal(size=(8, 1)) + 2
    sizes = np.array([1.0, 0.1, 2.0, 3.0, 0.2, 4.0, 0.3, 5.0])
    head[list(USELESS)] = 0
    made.set_weights([kernel / np.linalg.norm(kernel, axis=0) * sizes, 0.1 * rng.normal(size=8), head, np.array([0.5])])
    made.compile(loss="mse")
    return made


@pytest.fixture
def data(model):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(43, 6)).astype("float32")
    return x, (model.predict(x, verbose=0) + rng.normal(size=(43, 1))).astype("float32")


def _loss(model, x, y, keep) -> float:
    kernel, bias, head, last = (w.astype(float) for w in model.get_weights())
    return float(np.mean((np.maximum(x @ kernel + bias, 0) * keep @ head + last - y) ** 2))


def _splits(count, folds, seed=0):
    return np.array_split(np.random.default_rng(seed).permutation(count), folds)


def _below(scores, threshold):
    """What stays; the most important unit always does."""
    return (scores >= threshold) | (np.arange(len(scores)) == scores.argmax())


def _oracle(model, data, folds, thresholds, scores_of):
    (x, y), splits = data, _splits(len(data[0]), folds)
    values = np.empty((folds, len(thresholds)))
    for i, held in enumerate(splits):
        scores = scores_of(np.setdiff1d(np.arange(len(x)), held))
        for j, threshold in enumerate(thresholds):
            values[i, j] = _loss(model, x[held], y[held], _below(scores, threshold))
    return values.mean(0), values.std(0, ddof=1) / math.sqrt(folds)


def test_the_curve_of_a_weight_criterion_by_numpy(model, data):
    scores = np.linalg.norm(model.get_weights()[0], axis=0)
    scores = scores / scores.mean()
    choice = choose_threshold(model, data, folds=4)
    mean, error = _oracle(model, data, 4, choice.thresholds, lambda rows: scores)
    np.testing.assert_allclose(choice.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(choice.standard_error, error, rtol=1e-4)
    stays = np.array([_below(scores, t).sum() for t in choice.thresholds])
    np.testing.assert_array_equal(stays, [8, 7, 6, 5, 4, 3, 2])  # every share there is, of those that can go
    np.testing.assert_allclose(choice.channels, stays / 8)
    np.testing.assert_allclose(choice.macs, stays / 8)  # 6 * hidden + hidden * 1
    assert choice.threshold == max(
        t for t, m in zip(choice.thresholds, mean, strict=True) if m - mean[0] <= 0.01 * mean[0]
    )


def test_a_data_criterion_sees_only_the_other_folds(model, data):
    kernel, bias = model.get_weights()[:2]

    def activation(rows):
        scores = np.maximum(data[0][rows].astype(float) @ kernel + bias, 0).mean(0)
        return scores / scores.mean()

    thresholds = np.linspace(0.2, 2, 12)
    choice = choose_threshold(model, data, folds=3, criterion="activation", thresholds=thresholds)
    folds = [activation(np.setdiff1d(np.arange(43), held)) for held in _splits(43, 3)]
    floor = min(scores.min() for scores in [activation(slice(None)), *folds])
    np.testing.assert_allclose(choice.thresholds, [floor, *thresholds], rtol=1e-5)
    mean, error = _oracle(model, data, 3, [0, *thresholds], activation)
    np.testing.assert_allclose(choice.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(choice.standard_error, error, rtol=1e-4)
    whole = activation(slice(None))
    np.testing.assert_allclose(choice.channels, [_below(whole, t).mean() for t in [0, *thresholds]])


@pytest.mark.parametrize("tolerance", [0, 0.01])
@pytest.mark.parametrize("criterion", ["l2", "gradient"])
def test_planted_channels_are_found(model, data, criterion, tolerance):
    choice = choose_threshold(model, data, criterion=criterion, tolerance=tolerance)
    scores = importance(model, criterion, data, reduction="mean", normalization="mean").groups["hidden"]
    useful = np.delete(scores, USELESS)
    assert scores[list(USELESS)].max() < choice.threshold <= useful.min()
    assert choice.mean[choice.index] == choice.mean[0]
    plan = plan_channels(model, threshold=choice.threshold, criterion=criterion, data=data)
    assert plan.keep["hidden"] == [0, 2, 3, 5, 7]
    np.testing.assert_allclose(
        apply(model, plan).predict(data[0], verbose=0), model.predict(data[0], verbose=0), rtol=1e-5, atol=1e-6
    )


def test_a_drop_of_just_the_tolerance_is_within_it(model, data):
    """0.98 - 0.97 > 0.01 in floats, and the mean of folds may be off by a bit either way."""
    whole = model.predict(data[0], verbose=0)

    def metric(rows, outputs):
        return 0.98 if np.allclose(outputs, whole[rows], rtol=1e-3) else 0.97

    for folds in (3, 4, 7):
        asked = {"folds": folds, "metric": metric, "greater_is_better": True, "relative": False}
        assert choose_threshold(model, data[0], np.arange(43), tolerance=0.01, **asked).index == 6
        assert choose_threshold(model, data[0], np.arange(43), tolerance=0.009, **asked).index == 3


def test_folds_are_disjoint_and_cover_the_data(model, data):
    seen = []

    def count(labels, outputs):
        seen.append(tuple(labels.tolist()))
        return len(outputs)

    choice = choose_threshold(model, data[0], np.arange(43), folds=5, metric=count, greater_is_better=False)
    folds = set(seen)
    assert sorted(len(fold) for fold in folds) == [8, 8, 9, 9, 9]
    assert sorted(i for fold in folds for i in fold) == list(range(43))
    assert any(np.diff(fold).max() > 1 for fold in folds)  # shuffled: data are often sorted by class
    assert len(seen) == 5 * len(choice.thresholds)
    assert choice.mean == (43 / 5,) * len(choice.thresholds)


def test_the_same_arguments_give_the_same_choice(model, data):
    first = choose_threshold(model, data, criterion="random")
    assert choose_threshold(model, data, criterion="random") == first
    other = choose_threshold(model, data, seed=1)
    assert other.standard_error != choose_threshold(model, data).standard_error


def test_what_tolerance_means(model, data):
    curve = choose_threshold(model, data, tolerance=1e9)
    mean, error = np.array(curve.mean), np.array(curve.standard_error)
    assert curve.threshold == curve.thresholds[-1]
    middle = (mean[4] + mean[5]) / 2 - mean[0]  # between two points: no verdict by the last bit
    assert mean[3] < mean[4] < mean[5]

    absolute = choose_threshold(model, data, tolerance=middle, relative=False)
    relative = choose_threshold(model, data, tolerance=middle / mean[0])
    assert (absolute.limit, relative.limit) == pytest.approx((middle, middle))
    # The same function of two scales: of a loss a thousand times as large, 1 % is as much.
    larger = choose_threshold(model, data, tolerance=middle / mean[0], loss=lambda y, out: 1000 * (y - out) ** 2)
    within = np.flatnonzero(mean - mean[0] <= middle)[-1]
    assert [c.index for c in (absolute, relative, larger)] == [within] * 3

    rule = choose_threshold(model, data, tolerance="one_standard_error")
    best = mean.argmin()
    assert np.abs(mean - mean[best] - error[best]).min() > 1e-6
    assert rule.index == np.flatnonzero(mean <= mean[best] + error[best])[-1]
    assert rule.limit == pytest.approx(mean[best] + error[best] - mean[0])


def test_a_metric_that_is_to_be_large():
    model = zoo.build("conv_bn")
    x = zoo.sample_inputs(model, 40)
    y = model.predict(x, verbose=0).argmax(-1)
    made = choose_threshold(model, (x, y), metric="accuracy", folds=4, tolerance=0.25)
    assert (made.metric, made.greater_is_better, made.mean[0], made.limit) == ("accuracy", True, 1.0, 0.25)
    assert made.index == np.flatnonzero(np.array(made.mean) >= 0.75)[-1]

    def right(labels, outputs):
        return np.mean(outputs.argmax(-1) == labels)

    own = choose_threshold(model, (x, y), metric=right, greater_is_better=True, folds=4, tolerance=0.25)
    assert (own.metric, own.threshold, own.mean) == ("right", made.threshold, made.mean)


@pytest.mark.parametrize("name", ["conv_bn", "grouped", "concat", "attention", "lstm"])
def test_the_plan_gives_up_what_was_masked(name, monkeypatch):
    model = zoo.build(name)
    x = zoo.sample_inputs(model, 6)
    y = np.asarray(model(x))
    put_on = []
    real = cross_validation.masked
    monkeypatch.setattr(cross_validation, "masked", lambda graph, keep: put_on.append(keep) or real(graph, keep))
    choice = choose_threshold(model, x, y, loss="mse", folds=2, thresholds=5, tolerance=0.5)
    graph = trace(model)
    for i, threshold in enumerate(choice.thresholds):
        plan = plan_channels(model, threshold=threshold)
        np.testing.assert_array_equal(units_of(graph, plan), put_on[i])
        assert plan.after["macs"] / plan.before["macs"] == pytest.approx(choice.macs[i])
    assert put_on[0].all()
    assert not put_on[1].all()


def test_the_masked_model_is_adapted_on_the_other_folds():
    model = zoo.build("conv_bn")
    x = zoo.sample_inputs(model, 30)
    y = model.predict(x, verbose=0)
    model.compile(loss="mse")
    before = model.get_weights()
    choice = choose_threshold(model, (x, y), folds=3, thresholds=3, adapt=recalibrate_batch_norm)
    plan = plan_channels(model, threshold=choice.thresholds[2])
    losses = []
    for held in _splits(30, 3):
        smaller = apply(model, plan)
        recalibrate_batch_norm(smaller, np.delete(x, held, axis=0))
        losses.append(np.mean((smaller.predict(x[held], verbose=0) - y[held]) ** 2))
    assert choice.mean[2] == pytest.approx(np.mean(losses), rel=1e-4)
    assert choice.mean[0] == pytest.approx(0, abs=1e-12)  # the model as it is, not adapted
    assert choice.mean[2] != choose_threshold(model, (x, y), folds=3, thresholds=3).mean[2]
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_candidates_all_of_which_are_too_much_leave_the_model_whole(model, data):
    choice = choose_threshold(model, data, thresholds=(50, 100), tolerance=0)
    assert (choice.index, choice.channels) == (0, (1.0, 0.125, 0.125))
    assert plan_channels(model, threshold=choice.threshold).removed == {}


def test_weights_come_back_also_after_an_error(model, data):
    before, calls = model.get_weights(), []

    def failing(labels, outputs):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        choose_threshold(model, data, metric=failing, greater_is_better=False)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_half_precision_and_open_sizes():
    with contracts.policy("mixed_float16"):
        model = contracts.network()
    x, y = contracts.data(24)
    choice = choose_threshold(model, (x, y), folds=3, thresholds=4)
    assert choice.mean[0] == pytest.approx(model.evaluate(x, y, verbose=0), rel=2e-3)
    inputs = keras.Input((None, None, 2))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv")(inputs))
    sizes_open = keras.Model(inputs, layers.Dense(4)(pooled))
    choice = choose_threshold(sizes_open, (x, np.eye(4)[y]), loss="mse", folds=3)
    assert (choice.macs, len(choice.channels)) == ((), len(choice.thresholds))
    assert "?" in str(choice)


def test_table_picture_and_data(model, data, tmp_path):
    choice = choose_threshold(model, data)
    plain = json.loads(json.dumps(choice.to_dict()))
    assert (plain["threshold"], plain["mean"]) == (choice.threshold, list(choice.mean))
    text = str(choice)
    assert "62.5% of the channels and 62.5% of the MACs stay" in " ".join(text.split())
    assert [line for line in text.splitlines() if f"{choice.threshold:.4g}" in line and "chosen" in line]
    choice.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 3000


def test_a_plan_takes_the_options_of_a_plan(model):
    plan = plan_channels(model, threshold=1.2, round_to=4)
    assert len(plan.keep["hidden"]) == 4
    assert Plan.from_json(plan.to_json()).settings["threshold"] == 1.2
    assert plan_channels(model, threshold=1.2, exclude=["hidden"]).removed == {}


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"folds": 1}, ValueError, "`folds` must be a whole number, 2 or larger. Received: 1."),
        ({"folds": 2.5}, ValueError, "`folds` must be a whole number"),
        ({"folds": 44}, DataError, "each of 44 folds. Received: 43 samples"),
        ({"tolerance": -0.1}, ValueError, "`tolerance` must be a finite number of at least 0.* Received: -0.1."),
        ({"tolerance": math.nan}, ValueError, "`tolerance` must be"),
        ({"tolerance": "two"}, ValueError, "or 'one_standard_error'. Received: 'two'"),
        ({"thresholds": 0}, ValueError, "`thresholds` must be a positive integer"),
        ({"thresholds": ()}, ValueError, "`thresholds` must be"),
        ({"thresholds": (0.1, math.inf)}, ValueError, "`thresholds` must be"),
        ({"metric": "auc"}, ValueError, "`metric` must be"),
        ({"metric": len}, ValueError, "needs greater_is_better=True or greater_is_better=False"),
        ({"greater_is_better": "up"}, ValueError, "`greater_is_better` must be"),
        ({"mode": "up"}, ValueError, "`mode` must be"),
        ({"adapt": "norms"}, ValueError, "`adapt` must be a function"),
        ({"criterion": "taste"}, ValueError, "`criterion` must be"),
        ({"criterion": "bn_scale"}, ModelError, "No channel of `planted` can go by the criterion bn_scale"),
        ({"metric": lambda y, out: math.nan, "greater_is_better": False}, DataError, "of the unmasked model is nan"),
    ],
)
def test_bad_options(model, data, options, error, message):
    with pytest.raises(error, match=message):
        choose_threshold(model, data, **options)


def test_bad_models_and_data(model, data):
    with pytest.raises(DataError, match="needs labels"):
        choose_threshold(model, data[0])
    with pytest.raises(DataError, match="expected shape"):
        choose_threshold(model, (data[0][:, :3], data[1]))
    with pytest.raises(ModelError, match="no prunable group"):
        choose_threshold(keras.Sequential([keras.Input((6,)), layers.Dense(1)]), data, loss="mse")
    with pytest.raises(ModelError, match="ubclass"):
        choose_threshold(zoo.build("subclassed"), data, loss="mse")
    with pytest.raises(DataError, match="needs a loss"):
        choose_threshold(zoo.build("conv_bn"), np.zeros((6, 12, 12, 3)), np.zeros(6, int))
