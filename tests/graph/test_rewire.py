"""Operations run in another way: deleted, followed by others, replaced; in nested, shared and Sequential models."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers

from tfstruct import graph as graphs


def _op(model, name):
    return id(model.get_layer(name))


def test_without_edits_everything_is_copied():
    for name in ("conv_bn", "nested", "several", "shared"):
        model = zoo.build(name)
        x = zoo.sample_inputs(model, 2)
        made = graphs.rewire(graphs.trace(model), {})
        for a, b in zip(keras.tree.flatten(model(x)), keras.tree.flatten(made.model(x)), strict=True):
            np.testing.assert_array_equal(a, b)
        assert type(made.model) is type(model) or name != "conv_bn"


@pytest.mark.parametrize("name", ["conv_bn", "residual"])
def test_a_layer_goes_and_another_comes(name):
    model = zoo.build(name)
    x = zoo.sample_inputs(model, 2)
    layer = "stem_relu" if name == "conv_bn" else "relu"
    made = graphs.rewire(graphs.trace(model), {_op(model, layer): lambda step, run, x: x})
    assert layer not in [op.name for op in made.model.layers]
    twice = graphs.rewire(
        graphs.trace(model), {_op(model, layer): lambda step, run, x: layers.ReLU(name="again")(run(x))}
    )
    np.testing.assert_array_equal(twice.model(x), model(x))
    assert isinstance(made.model, keras.Sequential) == isinstance(model, keras.Sequential)


def test_inside_a_nested_model():
    model = zoo.build("nested")
    inner = model.get_layer("block").get_layer("conv")
    made = graphs.rewire(graphs.trace(model), {id(inner): lambda step, run, x: x})
    x = zoo.sample_inputs(model, 2)
    expected = model.get_layer("tail")(2 * model.get_layer("conv")(x))
    np.testing.assert_allclose(made.model(x), expected, rtol=1e-6)


def test_a_shuffle_in_a_sequential_model():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)), layers.Conv2D(12, 1, name="a"), layers.Reshape((4, 4, 3, 4)),
            layers.Permute((1, 2, 4, 3)), layers.Reshape((4, 4, 12)), layers.Conv2D(2, 1, name="b"),
        ]
    )  # fmt: skip
    zoo.randomise(model)
    x = zoo.sample_inputs(model, 2)
    graph = graphs.trace(model)
    np.testing.assert_array_equal(graphs.rewire(graph, {}).model(x), model(x))
    keep = np.ones(graph.units.count, bool)
    keep[graphs.groups(graph)[0].units[[0, 7]]] = False
    smaller, _ = graphs.rebuild(graph, keep)
    assert smaller.get_layer("a").filters == 10
