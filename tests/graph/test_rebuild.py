"""What a rebuilt model has to carry over besides its weights."""

import keras
import numpy as np
from keras import layers

from tfstruct import graph as graphs


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
