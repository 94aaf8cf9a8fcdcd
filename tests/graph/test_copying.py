"""A model once more: with what `adapt` taught it, and none of it shared."""

import keras
import numpy as np

from tfstruct.graph.copying import copied
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
