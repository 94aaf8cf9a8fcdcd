"""Rows of tables that no data uses go: model(ids) == smaller(map(ids)), for every way in which ids reach a table."""

import json

import custom_layers
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from oracle import assert_equal

from tfstruct.errors import ArgumentError, DataError, ModelError, PlanError
from tfstruct.surgery import open_layers, prune_vocabulary

IDS = np.random.default_rng(0).choice([3, 5, 8, 12, 17], (20, 6)).astype("int32")
KEPT = (3, 5, 8, 12, 17)


def embedding():
    inputs = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(20, 8, name="table")(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def moved():
    """The ids are cut, joined, cast and reshaped before they are looked up."""
    inputs = keras.Input((6,), dtype="int32", name="ids")
    x = ops.concatenate([inputs[:, ::2], inputs[:, 1::2]], axis=1)
    x = layers.Embedding(20, 8, name="table")(ops.reshape(ops.cast(x, "float32"), (-1, 2, 3)))
    return keras.Model(inputs, layers.Dense(3)(ops.mean(x, axis=(1, 2))))


def twice():
    """Two tables of one input, one of them shared by two calls."""
    inputs = keras.Input((6,), dtype="int32", name="ids")
    table, other = layers.Embedding(20, 8, name="table"), layers.Embedding(25, 4, name="other")
    x = layers.Concatenate()([table(inputs), other(inputs), table(ops.flip(inputs, axis=1))])
    return keras.Model(inputs, layers.Dense(3)(ops.mean(x, axis=1)))


def nested():
    inner_in = keras.Input((6,), dtype="int32")
    inner = keras.Model(inner_in, layers.Embedding(20, 8, name="table")(inner_in), name="inner")
    inputs = keras.Input((6,), dtype="int32", name="ids")
    return keras.Model(inputs, layers.Dense(3)(ops.mean(inner(inputs), axis=1)))


def opened():
    """Positions too, whose ids the model counts itself."""
    inputs = keras.Input((6,), dtype="int32", name="ids")
    x = custom_layers.Positions(20, 8, 6, name="embed")(inputs)
    x = layers.MultiHeadAttention(2, 4)(x, x)
    return open_layers(keras.Model(inputs, layers.Dense(3)(ops.mean(x, axis=1)))).model


def tied():
    inputs = keras.Input((6,), dtype="int32", name="ids")
    return open_layers(keras.Model(inputs, custom_layers.TiedDecoder(20, 8, name="decoder")(inputs))).model


def reversible():
    inputs = keras.Input((6,), dtype="int32", name="ids")
    table = layers.ReversibleEmbedding(20, 8, name="table")
    return keras.Model(inputs, table(layers.Dense(8, "relu")(table(inputs)), reverse=True))


def untied():
    inputs = keras.Input((6,), dtype="int32", name="ids")
    table = layers.ReversibleEmbedding(20, 8, tie_weights=False, name="table")
    return keras.Model(inputs, table(layers.Dense(8, "relu")(table(inputs)), reverse=True))


SAME = (embedding, moved, twice, nested, opened)
LOGITS = (tied, reversible, untied)


@pytest.mark.parametrize("make", SAME)
def test_equal_on_new_numbers(make, tmp_path):
    model = custom_layers.randomized(make())
    found = prune_vocabulary(model, IDS)
    report, smaller = found.report, found.model
    assert report.ids["ids"] == ((0, *KEPT) if make is opened else KEPT)  # a mask compares with 0
    assert all(after == len(report.ids["ids"]) for _, after in report.rows.values())
    tables = [w for w in model.weights if w.name == "embeddings" and w.shape[0] in (20, 25)]
    gone = sum((w.shape[0] - len(report.ids["ids"])) * w.shape[1] for w in tables)
    assert model.count_params() - smaller.count_params() == gone
    assert sum(report.saved.values()) == 4 * gone
    new = report.map(IDS)
    assert new.dtype == IDS.dtype and new.max() == len(report.ids["ids"]) - 1
    assert_equal([np.asarray(model(IDS))], [np.asarray(smaller(new))])
    smaller.save(tmp_path / "smaller.keras")
    assert_equal([np.asarray(smaller(new))], [np.asarray(keras.models.load_model(tmp_path / "smaller.keras")(new))])
    report.save(tmp_path / "map.json")
    assert json.loads((tmp_path / "map.json").read_text())["ids"]["ids"] == list(report.ids["ids"])


@pytest.mark.parametrize("make", LOGITS)
def test_logits_follow_where_the_user_says_so(make):
    model = custom_layers.randomized(make())
    with pytest.raises(ModelError, match=r"the model's own output.* outputs=\["):
        prune_vocabulary(model, IDS)
    found = prune_vocabulary(model, IDS, outputs=model.output_names)
    new = found.report.map(IDS)
    assert found.report.outputs == {model.output_names[0]: (20, 5)}
    assert_equal([np.asarray(model(IDS))[..., list(KEPT)]], [np.asarray(found.model(new))])
    assert len(found.model.weights) == len(model.weights)
    assert "width 20 -> 5" in str(found)


def test_several_inputs():
    """Inputs that read one table share its numbers; another has its own."""
    first, second, third = (keras.Input((n,), dtype="int32", name=name) for n, name in ((6, "a"), (1, "b"), (4, "c")))
    table = layers.Embedding(20, 8, name="table")
    x = ops.concatenate([table(first), table(second), layers.Embedding(9, 8, name="other")(third)], axis=1)
    model = custom_layers.randomized(keras.Model([first, second, third], layers.Dense(3)(ops.mean(x, axis=1))))
    data = [IDS, np.full((20, 1), 2, "int32"), np.full((20, 4), 7, "int32")]
    report = prune_vocabulary(model, {"a": data[0], "b": data[1], "c": data[2]}, keep={"c": [1]}).report
    assert report.ids == {"a": (2, *KEPT), "b": (2, *KEPT), "c": (1, 7)}
    smaller = prune_vocabulary(model, tf.data.Dataset.from_tensor_slices(tuple([tuple(data)])).batch(8), keep=[7]).model
    assert smaller.get_layer("table").input_dim == 7 and smaller.get_layer("other").input_dim == 1
    with pytest.raises(ArgumentError, match="one of"):
        report.map(IDS)
    with pytest.raises(ArgumentError, match=r"ids of 2 kinds.*\['a', 'b', 'c'\]"):
        prune_vocabulary(model, ids=[1, 2])
    report = prune_vocabulary(model, ids={"a": [1, 2]}).report
    assert report.rows == {"table": (20, 2)} and report.left_alone == {"other": "`ids` has none of c"}
    found = prune_vocabulary(model, data, keep={"c": [1]})
    new = [found.report.map(x, name) for x, name in zip(data, "abc", strict=True)]
    assert_equal([np.asarray(model(data))], [np.asarray(found.model(new))])


def test_ids_that_went():
    model = embedding()
    report = prune_vocabulary(model, ids=[4, 9], keep=range(2), unknown=1).report
    assert report.ids["ids"] == (0, 1, 4, 9) and report.unknown["ids"] == 1
    assert report.map([[0, 4, 19, 9, 2]]).tolist() == [[0, 2, 1, 3, 1]]
    with pytest.raises(DataError, match=r"The ids \[2, 19\] went.*`unknown`"):
        prune_vocabulary(model, ids=[4, 9]).report.map([4, 19, 2])


WORDS = np.array([["a", "e", "zz"], ["b", "a", "a"]])
NUMBERS = np.array([[10, 50, 7], [20, 10, 10]])


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("kind", [layers.StringLookup, layers.IntegerLookup, layers.TextVectorization])
def test_words_in_the_model(kind, adapted, tmp_path):
    numbers = kind is layers.IntegerLookup
    words, x = ([10, 20, 30, 40, 50], NUMBERS) if numbers else (list("abcde"), WORDS)
    options = {"output_sequence_length": 3} if kind is layers.TextVectorization else {}
    x = np.array([" ".join(row) for row in x]) if options else x
    lookup = kind(**options) if adapted else kind(vocabulary=words, **options)
    if adapted:
        lookup.adapt(np.array(words))
    inputs = keras.Input(x.shape[1:], dtype="int64" if numbers else "string", name="words")
    table = layers.Embedding(lookup.vocabulary_size(), 4, name="table")
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(table(lookup(inputs)))))
    custom_layers.randomized(model)
    found = prune_vocabulary(model, x)
    assert found.report.rows["table"] == (len(words) + 1 + bool(options), 4 + bool(options))
    x = tf.constant(x)
    assert_equal([np.asarray(model(x))], [np.asarray(found.model(x))])
    found.model.save(tmp_path / "smaller.keras")
    assert_equal([np.asarray(model(x))], [np.asarray(keras.models.load_model(tmp_path / "smaller.keras")(x))])


def masked_by(number):
    inputs = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(20, 8)(inputs) * ops.cast(ops.not_equal(inputs, number), "float32")[..., None]
    return keras.Model(inputs, layers.Dense(2)(ops.mean(x, axis=1)))


def test_an_id_that_is_compared_keeps_its_number():
    model = custom_layers.randomized(masked_by(2))
    with pytest.raises(ModelError, match=r"The id 2 would become 0.*keep=range\(3\)"):
        prune_vocabulary(model, IDS)
    found = prune_vocabulary(model, IDS, keep=range(3))
    assert found.report.ids["ids"] == (0, 1, 2, *KEPT)
    assert_equal([np.asarray(model(IDS))], [np.asarray(found.model(found.report.map(IDS)))])


def computing():
    inputs = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(20, 8, name="table")(inputs) + ops.cast(inputs * 2, "float32")[..., None]
    return keras.Model(inputs, layers.Dense(2)(ops.mean(x, axis=1)))


def closed():
    inputs = keras.Input((6,), dtype="int32", name="ids")
    x = custom_layers.Positions(20, 8, 6, name="embed")(inputs)
    return keras.Model(inputs, layers.Dense(2)(ops.mean(x, axis=1)))


def returned():
    inputs = keras.Input((6,), dtype="int32", name="ids")
    return keras.Model(inputs, [layers.Embedding(20, 8, name="table")(inputs), inputs[:, 1:]])


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (computing, {}, ModelError, "table: .* computes with the ids themselves"),
        (returned, {}, ModelError, "table: the model returns the ids"),
        (lambda: keras.Sequential([keras.Input((3,)), layers.Dense(2)]), {"data": np.ones((2, 3))}, ModelError,
         "It has no table that ids pick from"),
        (closed, {"open_layers": False}, ModelError, "Positions .*open_layers opens it"),
        (embedding, {"data": None}, DataError, "either `data`"),
        (embedding, {"ids": [1]}, DataError, "either `data`"),
        (embedding, {"data": None, "ids": [25]}, DataError, "0 to 19. Received: 25"),
        (embedding, {"data": None, "ids": [-1, 3]}, DataError, "Received: -1"),
        (embedding, {"data": None, "ids": [0.5]}, ArgumentError, "whole numbers"),
        (embedding, {"keep": {"x": [1]}}, ArgumentError, r"`keep` names \['x'\]"),
        (embedding, {"outputs": ["nothing"]}, PlanError, "names of outputs"),
    ],
)  # fmt: skip
def test_what_cannot_be_done(make, options, error, message):
    with pytest.raises(error, match=message):
        prune_vocabulary(make(), **{"data": IDS, **options})
