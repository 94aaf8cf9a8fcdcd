"""Layers too wide, too narrow or without effect: found, with edits that run, and nothing else."""

import json

import contracts
import keras
import numpy as np
import pytest
import zoo
from keras import layers
from sweeps import sweep

from tfstruct import demo
from tfstruct.errors import DataError, ModelError
from tfstruct.surgery import analyze_bottlenecks, deepen


def _fit(model, x, y, rate, epochs):
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=epochs, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="module")
def digits():
    return demo.digits()


@pytest.fixture(scope="module")
def sick(digits):
    return _sick(digits, seed=0)


def _sick(digits, seed):
    """`fat` is far too wide, `thin` far too narrow, `stem_relu_deeper` a repeated layer that does nothing."""
    keras.utils.set_random_seed(seed)

    def conv(t, n, name, **options):
        t = layers.Conv2D(n, 3, padding="same", use_bias=False, name=name, **options)(t)
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(t))

    inputs = keras.Input((8, 8, 1))
    t = conv(layers.Rescaling(1 / 16)(inputs), 16, "stem")
    t = conv(t, 160, "fat", strides=2)
    t = layers.GlobalAveragePooling2D()(conv(t, 24, "good"))
    t = layers.Dense(32, activation="relu", name="fc1")(t)
    t = layers.Dense(3, name="thin")(t)
    t = layers.Dense(32, activation="relu", name="fc2")(t)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="head")(t), name="sick")
    (x, y), _ = digits
    return _fit(deepen(_fit(model, x, y, 2e-3, 6), "stem_relu").model, x, y, 1e-4, 1)


@pytest.fixture(scope="module")
def report(sick, digits):
    (x, y), _ = digits
    return analyze_bottlenecks(sick, x, y)


def test_all_three_are_found_and_nothing_else(report):
    assert {(f.layer, f.kind) for f in report.findings} == {
        ("fat", "wide"), ("thin", "narrow"), ("stem_relu_deeper", "redundant")
    }, str(report)  # fmt: skip
    assert [f.severity for f in report.findings] == sorted((f.severity for f in report.findings), reverse=True)
    assert all(0 <= f.severity <= 1 for f in report.findings)
    assert report.metric == "accuracy"


def _residual(seed, width):
    """Small images whose class is their brightest quarter; `inner` of that width in a residual block of 12 channels."""
    keras.utils.set_random_seed(seed)
    x, y = contracts.data(600, seed=seed)
    inputs = keras.Input((8, 8, 2))
    t = layers.Conv2D(12, 3, padding="same", activation="relu", name="stem")(inputs)
    inner = layers.Conv2D(width, 3, padding="same", activation="relu", name="inner")(t)
    t = layers.Add()([t, layers.Conv2D(12, 3, padding="same", name="outer")(inner)])
    t = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3, strides=2, activation="relu", name="last")(t))
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(t), name="residual")
    return _fit(model, x, y, 3e-3, 12), x, y


def _table(seed, first, second):
    """Four classes of twelve numbers; dense layers of 32, `first`, `second` and 24 units."""
    keras.utils.set_random_seed(seed)
    x = np.random.default_rng(seed).normal(size=(1500, 12)).astype("float32")
    curved = np.sin(x[:, :6]).sum(axis=1) + x[:, 6] * x[:, 7] > 0
    y = curved.astype(int) + 2 * (x[:, 8] + x[:, 9] ** 2 > 1)
    inputs = t = keras.Input((12,))
    for name, units in {"start": 32, "first": first, "second": second, "third": 24}.items():
        t = layers.Dense(units, activation="tanh", name=name)(t)
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(t), name="table")
    return _fit(model, x, y, 3e-3, 15), x, y


_PLANTED = {
    "residual": (lambda seed: _residual(seed, 12), set()),
    "wide residual": (lambda seed: _residual(seed, 128), {("inner", "wide")}),
    "table": (lambda seed: _table(seed, 32, 24), set()),
    "wide table": (lambda seed: _table(seed, 256, 24), {("first", "wide")}),
    "narrow table": (lambda seed: _table(seed, 32, 3), {("second", "narrow")}),
}


@pytest.mark.parametrize(
    ("name", "seed"), sweep([(name, seed) for name in _PLANTED for seed in range(3)], quick=[("wide residual", 0)])
)
@pytest.mark.slow
def test_other_data_and_seeds_give_the_planted_verdict(name, seed):
    build, planted = _PLANTED[name]
    model, x, y = build(seed)
    for labels in (y, None):
        report = analyze_bottlenecks(model, x, labels)
        assert {(f.layer, f.kind) for f in report.findings} == planted, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_other_seeds_give_the_same_verdict(seed, digits):
    (x, y), _ = digits
    report = analyze_bottlenecks(_sick(digits, seed), x, y)
    assert {(f.layer, f.kind) for f in report.findings} == {
        ("fat", "wide"), ("thin", "narrow"), ("stem_relu_deeper", "redundant")
    }, str(report)  # fmt: skip


def test_the_edits_apply_and_the_models_run_and_train(sick, report, digits):
    (x, y), _ = digits
    for found in report.findings:
        done = found.apply(sick)
        model = done.model
        assert model(x[:2]).shape == (2, 10)
        assert (done.parameters[1] > done.parameters[0]) == (found.kind == "narrow")
        if found.kind == "redundant":
            assert found.layer not in [layer.name for layer in model.layers]
    one_after_the_other = sick
    for found in report.findings:
        one_after_the_other = found.apply(one_after_the_other).model
    _fit(one_after_the_other, x[:64], y[:64], 1e-3, 1)
    assert one_after_the_other.get_layer("fat").filters <= 80
    assert one_after_the_other.get_layer("thin").units >= 6


def test_without_labels_the_worst_are_found_too(sick, digits):
    (x, _), _ = digits
    report = analyze_bottlenecks(sick, x)
    assert report.metric == "outputs"
    assert {("thin", "narrow"), ("stem_relu_deeper", "redundant")} <= {(f.layer, f.kind) for f in report.findings}


def test_a_healthy_network_has_none(digits_model, digits):
    (x, y), _ = digits
    report = analyze_bottlenecks(digits_model, x, y)
    assert not report.findings, str(report)
    assert "nothing too wide" in str(report)
    assert not analyze_bottlenecks(digits_model, x).findings


def test_a_layer_twice_side_by_side():
    inputs = keras.Input((12,))
    a, b = layers.Dense(9, activation="relu", name="a"), layers.Dense(9, activation="relu", name="b")
    x = layers.Concatenate()([a(inputs), b(inputs)])
    model = zoo.randomise(keras.Model(inputs, layers.Dense(4, name="head")(x)))
    b.set_weights(a.get_weights())
    report = analyze_bottlenecks(model, np.random.default_rng(0).normal(size=(64, 12)))
    (found,) = [f for f in report.findings if f.kind == "redundant"]
    assert (found.layer, found.target) == ("b", ("a",))
    done = found.apply(model)
    assert done.parameters[1] == done.parameters[0] - 117
    assert done.max_difference.relative < 1e-5


NAMES = [n for n in zoo.MODELS if n != "subclassed"]


@pytest.mark.parametrize(
    "name", sweep(NAMES, quick=["depthwise", "residual", "lstm", "attention", "several", "nested"])
)
def test_every_model_can_be_looked_at(name):
    report = analyze_bottlenecks(zoo.build(name))
    json.dumps(report.to_dict())
    assert report.table().row_count == len(report.findings)


def test_bad_input(digits_model):
    with pytest.raises(DataError, match="expected shape"):
        analyze_bottlenecks(digits_model, np.zeros((4, 5)))
    with pytest.raises(ModelError, match="subclassed"):
        analyze_bottlenecks(zoo.build("subclassed"))
