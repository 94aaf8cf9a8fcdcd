"""Masking by group and ratio: equal to the rebuilt model, resumable, and nothing is left behind."""

import json

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from oracle import removable
from sweeps import sweep as cases

from tfstruct.analyze import sensitivity, sweep
from tfstruct.analyze.masking import masked
from tfstruct.analyze.names import by_name
from tfstruct.errors import DataError, ModelError
from tfstruct.graph import groups, rebuild, trace


@pytest.fixture
def model():
    return zoo.build("conv_bn")


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).normal(size=(60, 12, 12, 3)).astype("float32")
    return x, zoo.build("conv_bn").predict(x, verbose=0).argmax(-1)


ZOO = [
    "conv_bn", "depthwise", "residual", "concat", "transposed", "conv1d", "grouped", "several", "nested", "lstm",
    "gru", "bidirectional", "attention", "embedding",
]  # fmt: skip
QUICK = ["conv_bn", "depthwise", "residual", "grouped", "several", "nested", "lstm", "bidirectional", "attention"]


@pytest.mark.parametrize("name", cases(ZOO, quick=QUICK))
def test_masked_equals_rebuilt(name):
    model = zoo.build(name)
    graph = trace(model)
    keep, rng = np.ones(graph.units.count, bool), np.random.default_rng(0)
    for group in groups(graph):
        keep[removable(group, 0.5, rng)] = False
    assert not keep.all()
    x = zoo.sample_inputs(model, 3)
    smaller, _ = rebuild(graph, keep)
    before = [w.numpy() for w in model.weights]
    with masked(graph, keep):
        got = keras.tree.flatten(model(x, training=False))
    for a, b in zip(got, keras.tree.flatten(smaller(x, training=False)), strict=True):
        if a.shape == b.shape:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for a, w in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, w.numpy())


def test_values_are_those_of_the_smaller_model(model, data):
    made = sensitivity(model, data, ratios=(0.25, 0.5), progress=False)
    assert (made.metric, made.baseline, list(made.groups)) == ("accuracy", 1.0, ["stem", "conv"])
    assert made.removed == {"stem": (2, 4), "conv": (3, 6)}
    graph = trace(model)
    kernel, bn = model.get_layer("stem").kernel.numpy(), by_name(graph)["stem"]
    order = np.argsort(np.linalg.norm(kernel.reshape(-1, 8), axis=0))
    keep = np.ones(graph.units.count, bool)
    keep[bn.units[order[:4]]] = False
    smaller, _ = rebuild(graph, keep)
    expected = np.mean(smaller.predict(data[0], verbose=0).argmax(-1) == data[1])
    assert made.groups["stem"][1] == pytest.approx(expected)


def test_loss_and_functions_as_metric(model, data):
    model.compile(loss="sparse_categorical_crossentropy")
    by_loss = sensitivity(model, data, metric="loss", ratios=(0.5,), groups=["conv"], progress=False)
    assert by_loss.baseline == pytest.approx(model.evaluate(*data, verbose=0), rel=1e-4)

    def largest(y, out):
        return np.max(out)

    own = sensitivity(model, data[0], data[1], metric=largest, ratios=(0.5,), groups=["conv"], progress=False)
    assert own.metric == "largest"
    assert own.baseline == pytest.approx(model.predict(data[0], verbose=0).max(), rel=1e-5)


def test_loss_is_the_default_where_labels_are_no_classes():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="a"), layers.Dense(1)])
    x = np.random.default_rng(0).normal(size=(10, 3))
    made = sensitivity(model, (x, x.sum(1)), loss="mse", ratios=(0.5,), progress=False)
    assert made.metric == "loss"
    assert made.groups["a"][0] != made.baseline


def test_blocks_stay_equal():
    model = zoo.build("grouped")
    x = zoo.sample_inputs(model, 8)
    made = sensitivity(model, x, np.zeros(8, int), ratios=(0.2, 0.5, 0.9), progress=False)
    assert made.removed["grouped2"] == (2, 4, 7) or all(n % 2 == 0 for n in made.removed["grouped"])


def test_it_resumes_and_computes_only_what_is_missing(model, data, tmp_path, monkeypatch):
    path = tmp_path / "s.json"
    first = sensitivity(model, data, ratios=(0.5,), groups=["stem"], path=path, progress=False)
    calls = []
    real = sweep.masked
    monkeypatch.setattr(sweep, "masked", lambda *a: calls.append(a) or real(*a))
    whole = sensitivity(model, data, ratios=(0.5,), path=path, progress=False)
    assert len(calls) == 1
    assert whole.groups["stem"] == first.groups["stem"]
    again = sensitivity(model, data, ratios=(0.5,), path=path, progress=False)
    assert (len(calls), again) == (1, whole)
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]


def test_an_interrupted_run_leaves_weights_and_file_whole(model, data, tmp_path):
    path, before, seen = tmp_path / "s.json", [w.numpy() for w in model.weights], []

    def failing(y, out):
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        sensitivity(model, data, metric=failing, ratios=(0.2, 0.5), path=path, progress=False)
    for a, w in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, w.numpy())
    assert list(json.loads(path.read_text())["groups"]) == ["stem"]


def test_a_file_of_another_model_is_refused(model, data, tmp_path):
    path = tmp_path / "s.json"
    sensitivity(model, data, ratios=(0.5,), path=path, progress=False)
    with pytest.raises(DataError, match="another weights"):
        sensitivity(zoo.build("conv_bn", 1), data, ratios=(0.5,), path=path, progress=False)
    with pytest.raises(DataError, match="another criterion"):
        sensitivity(model, data, ratios=(0.5,), criterion="l1", path=path, progress=False)
    with pytest.raises(DataError, match="another data"):
        sensitivity(model, (data[0] + 1, data[1]), ratios=(0.5,), path=path, progress=False)
    path.write_text("{")
    with pytest.raises(DataError, match="no file of sensitivity"):
        sensitivity(model, data, ratios=(0.5,), path=path, progress=False)


def test_table_picture_and_data(model, data, tmp_path, capsys):
    made = sensitivity(model, data, ratios=(0.25, 0.75), progress=True)
    assert "stem" in str(made)
    assert "-25%" in str(made)
    assert json.loads(json.dumps(made.to_dict()))["groups"]["stem"] == list(made.groups["stem"])
    assert set(made.ranked()) == {"stem", "conv"}
    made.plot(tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 3000


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"ratios": (0.0,)}, ValueError, "`ratios` must be numbers"),
        ({"ratios": ()}, ValueError, "`ratios` must be numbers"),
        ({"metric": "auc"}, ValueError, "`metric` must be"),
        ({"metric": "loss"}, DataError, "needs a loss"),
        ({"groups": ["head"]}, ModelError, r"Received: head \(the model's own output\)"),
        ({"groups": ["nothing"]}, ModelError, "Received: nothing"),
    ],
)
def test_bad_input(model, data, options, error, message):
    with pytest.raises(error, match=message):
        sensitivity(model, data, progress=False, **options)


def test_labels_and_prunable_groups_are_needed(model, data):
    with pytest.raises(DataError, match="needs labels"):
        sensitivity(model, data[0], progress=False)
    with pytest.raises(ModelError, match="no prunable group"):
        sensitivity(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), np.ones((2, 3)), [0, 1], progress=False)
