"""A model once more: with what `adapt` taught it, and none of it shared."""

import keras
import numpy as np
import pytest

from tfstruct.graph.copying import copied, untrained
from tfstruct.graph.layer_tree import layer_paths

L = keras.layers


def test_adapted_layers_compute_the_same():
    norm = L.Normalization(name="norm")
    norm.adapt(np.random.default_rng(0).normal(5, 3, (100, 4)))
    inside = keras.Sequential([keras.Input((4,)), norm, L.Dense(3, name="dense")], name="inside")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(2)(inside(inputs)))
    twin = copied(model)
    x = np.random.default_rng(1).normal(5, 3, (6, 4)).astype("float32")
    np.testing.assert_array_equal(model(x), twin(x))
    assert list(layer_paths(twin)) == list(layer_paths(model))
    assert not {id(op) for op in layer_paths(twin).values()} & {id(op) for op in layer_paths(model).values()}
    model.layers[-1].kernel.assign(np.zeros((3, 2)))
    assert np.abs(model(x) - twin(x)).max() > 0


def test_inputs_keep_the_names_of_their_layers():
    """An input without a name of its own is the same in a copy as in a file: its tensor's number is of this process."""
    a, b = keras.Input((3,)), keras.Input((3,), name="b", sparse=True)
    model = keras.Model([a, b], L.Dense(2)(a))
    made = copied(model)
    assert [layer.name for layer in made.layers] == [layer.name for layer in model.layers]
    assert made.inputs[0].name == made.layers[0].name and made.inputs[1].sparse


def test_untrained_weights_are_what_their_initializers_make():
    norm = L.Normalization(name="adapted")
    norm.adapt(np.random.default_rng(0).normal(5, 3, (100, 4)))
    table = keras.initializers.Constant(np.arange(30.0).reshape(6, 5))
    inputs, words = keras.Input((4,)), keras.Input((2,), dtype="int32")
    x = L.Dense(5, bias_initializer=keras.initializers.Constant(0.5), name="dense")(norm(inputs))
    x = L.Dense(5, name="frozen")(L.BatchNormalization(name="norm")(x))
    y = L.Flatten()(L.Embedding(6, 5, embeddings_initializer=table, name="table")(words))
    y = L.Dense(5, kernel_initializer="zeros", name="zeros")(y)
    model = keras.Model([inputs, words], L.Add()([x, y]))
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    model.get_layer("frozen").trainable = False

    keras.utils.set_random_seed(3)
    made, kept = untrained(model)
    dense, own = made.get_layer("dense"), model.get_layer("dense")
    assert abs(dense.kernel.numpy()).max() <= np.sqrt(6 / (4 + 5)) and dense.bias.numpy() == pytest.approx([0.5] * 5)
    assert np.abs(dense.kernel - own.kernel).max() > 0.1 and np.ptp(made.get_layer("norm").gamma) == 0
    np.testing.assert_array_equal(made.get_layer("frozen").kernel, model.get_layer("frozen").kernel)
    assert made.get_layer("table").embeddings.numpy().tolist() == np.arange(30.0).reshape(6, 5).tolist()
    assert [path.split("/")[-2] for path in kept] == ["zeros"]
    np.testing.assert_array_equal(made.get_layer("zeros").kernel, model.get_layer("zeros").kernel)
    samples = rng.normal(5, 3, (6, 4)).astype("float32")
    np.testing.assert_array_equal(made.get_layer("adapted")(samples), norm(samples))
    assert [v.trainable for v in made.weights] == [v.trainable for v in model.weights]
    keras.utils.set_random_seed(3)
    for one, other in zip(made.get_weights(), untrained(model)[0].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
