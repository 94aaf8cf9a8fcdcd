"""What a rebuilt model has to carry over besides its weights."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import graph as graphs
from tfstruct import surgery
from tfstruct.graph.copying import copied


def _assert_same_whole(model, x):
    graph = graphs.trace(model)
    again, _ = graphs.rebuild(graph, np.ones(graph.units.count, bool))
    np.testing.assert_allclose(again(x), model(x), rtol=1e-5, atol=1e-6)


def test_an_adapted_normalization_stays_adapted():
    normalise = layers.Normalization()
    normalise.adapt(np.random.default_rng(0).normal(3, 2, (100, 4)))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(5)(normalise(inputs))))
    _assert_same_whole(model, np.ones((2, 4), "float32"))


def test_an_adapted_lookup_keeps_its_vocabulary():
    lookup = layers.IntegerLookup()
    lookup.adapt(np.array([5, 7, 9]))
    inputs = keras.Input((4,), dtype="int64")
    model = keras.Model(inputs, layers.Dense(2)(layers.Embedding(5, 3)(lookup(inputs))))
    _assert_same_whole(model, np.array([[5, 7, 9, 1]]))


def test_an_adapted_text_vectorization_keeps_its_vocabulary():
    words = layers.TextVectorization(output_sequence_length=4)
    words.adapt(["a small model", "a large model"])
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, layers.Dense(2)(layers.Embedding(8, 3)(words(inputs))))
    _assert_same_whole(model, keras.ops.convert_to_tensor([["a model"], ["large small"]]))


def test_an_adapted_discretization_keeps_its_boundaries():
    bins = layers.Discretization(num_bins=4)
    bins.adapt(np.arange(100.0).reshape(-1, 1))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(layers.Embedding(5, 3)(bins(inputs))))
    _assert_same_whole(model, np.array([[5.0, 70.0, 90.0, 1.0]], "float32"))


def _of_many_layers():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 8)(inputs)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(layers.LayerNormalization()(x))
    x = layers.GRU(4, return_sequences=True)(layers.TimeDistributed(layers.Dense(6))(x))
    x = layers.BatchNormalization()(layers.SeparableConv1D(5, 2)(layers.Conv1D(8, 2)(x)))
    block = keras.Sequential([keras.Input((4, 5)), layers.Dense(7, activation="relu"), layers.PReLU()])
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(block(x))))


def test_no_initializer_runs_for_weights_that_are_copied(monkeypatch):
    model = _of_many_layers()
    x = np.arange(12).reshape(2, 6) % 9
    graph, expected = graphs.trace(model), model(x)
    kinds = [one for one in vars(keras.initializers).values() if isinstance(one, type)]

    def runs(initializer, *args, **kwargs):
        raise AssertionError(f"{type(initializer).__name__} runs")

    for kind in kinds:
        if "__call__" in vars(kind):
            monkeypatch.setattr(kind, "__call__", runs)
    for made in (
        graphs.rebuild(graph, np.ones(graph.units.count, bool))[0],
        graphs.rewire(graph, {}).model,
        copied(model),
        surgery.remove_redundant(model).model,
        surgery.fuse_activation(model).model,
    ):
        np.testing.assert_allclose(made(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("first", "jit_compile"), [("original", False), ("copy", True)])
def test_a_copy_and_its_original_train_apart(first, jit_compile):
    inputs = keras.Input((3,), dtype="int32")
    x = layers.BatchNormalization()(layers.Embedding(5, 4)(inputs))
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x)))
    graph = graphs.trace(model)
    copy, _ = graphs.rebuild(graph, np.ones(graph.units.count, bool))
    trained, other = (model, copy) if first == "original" else (copy, model)
    before = [w.numpy() for w in model.weights]
    trained.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=jit_compile)
    trained.fit(np.array([[0, 1, 2], [2, 1, 0]]), np.ones((2, 1)), epochs=2, verbose=0)
    for was, stays, moved in zip(before, other.weights, trained.weights, strict=True):
        np.testing.assert_array_equal(stays, was)
        assert np.any(moved.numpy() != was)
    other.layers[1].embeddings.assign(np.zeros((5, 4)))
    assert np.any(trained.layers[1].embeddings.numpy())
