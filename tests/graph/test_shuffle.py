"""Channel shuffles: permutations that tie no channels, grouped convolutions across them included."""

import keras
import numpy as np
import pytest
from keras import layers
from oracle import assert_pruned_equals_masked
from sweeps import sweep
from zoo import randomise

from tfstruct import graph as graphs


def _shuffled(x, groups, form):
    height, width, channels = x.shape[1:]
    split = (height, width, groups, channels // groups)
    if form == "layers":
        x = layers.Permute((1, 2, 4, 3))(layers.Reshape(split)(x))
        return layers.Reshape((height, width, channels), name="shuffled")(x)
    x = keras.ops.transpose(keras.ops.reshape(x, (-1, *split)), (0, 1, 2, 4, 3))
    return keras.ops.reshape(x, (-1, height, width, channels))


def _shufflenet(groups, channels, form="layers"):
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(channels, 3, name="stem")(inputs)
    for unit in range(2):
        y = layers.Conv2D(channels, 1, groups=groups, name=f"reduce{unit}")(x)
        y = layers.ReLU(name=f"relu{unit}")(layers.BatchNormalization(name=f"bn{unit}")(y))
        y = _shuffled(y, groups, form) if unit else layers.Identity()(_shuffled(y, groups, "operations"))
        y = layers.DepthwiseConv2D(3, padding="same", name=f"depthwise{unit}")(y)
        y = layers.Conv2D(channels, 1, groups=groups, name=f"expand{unit}")(y)
        x = layers.Add(name=f"add{unit}")([x, y])
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return randomise(keras.Model(inputs, layers.Dense(3, name="head")(x)))


SHUFFLES = [(g, c, form) for g, c in ((2, 8), (3, 24), (3, 30), (4, 16)) for form in ("layers", "operations")]


@pytest.mark.parametrize(
    ("groups", "channels", "form"), sweep(SHUFFLES, quick=[(2, 8, "layers"), (3, 30, "operations"), (4, 16, "layers")])
)
def test_grouped_convolutions_on_both_sides_of_a_shuffle(groups, channels, form):
    model = _shufflenet(groups, channels, form)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    _, _, smaller = assert_pruned_equals_masked(model, share=0.5, inputs=x)
    assert smaller.get_layer("reduce0").filters < channels
    assert smaller.get_layer("stem").filters < channels


def test_without_grouped_convolutions_every_channel_goes_alone():
    inputs = keras.Input((4, 4, 3), name="image")
    x = layers.Conv2D(12, 1, name="a")(inputs)
    x = _shuffled(x, 3, "layers")
    model = randomise(keras.Model(inputs, layers.Conv2D(2, 1, name="b")(x)))
    graph = graphs.trace(model)
    (group,) = [g for g in graphs.groups(graph) if g.name == "a"]
    assert (group.width, len(group.free), group.blocks) == (12, 12, ())
    keep = np.ones(graph.units.count, bool)
    keep[group.units[[0, 1, 5, 11]]] = False
    smaller, _ = graphs.rebuild(graph, keep)
    # a's channel c comes out at place (c % 4) * 3 + c // 4
    order = np.arange(12).reshape(3, 4).T.ravel()
    stays = [p for p, c in enumerate(order) if c not in (0, 1, 5, 11)]
    np.testing.assert_array_equal(
        smaller.get_layer("b").get_weights()[0], model.get_layer("b").get_weights()[0][:, :, stays]
    )


def test_whole_rows_and_columns_keep_the_reshapes():
    inputs = keras.Input((4, 4, 3), name="image")
    x = _shuffled(layers.Conv2D(12, 1, name="a")(inputs), 3, "layers")
    model = randomise(keras.Model(inputs, layers.Conv2D(2, 1, name="b")(x)))
    graph = graphs.trace(model)
    keep = np.ones(graph.units.count, bool)
    keep[graphs.groups(graph)[0].units[[1, 5, 9]]] = False
    smaller, _ = graphs.rebuild(graph, keep)
    assert smaller.get_layer("shuffled").target_shape == (4, 4, 9)
    assert not any(type(op).__name__ == "Take" for op in smaller.operations)


def test_other_models_of_the_same_layers_change_nothing():
    inputs = keras.Input((4, 4, 3), name="image")
    steps = [layers.Conv2D(12, 1, name="a"), layers.Reshape((4, 4, 3, 4)), layers.Permute((1, 2, 4, 3)),
             layers.Reshape((4, 4, 12)), layers.Conv2D(2, 1, name="b")]  # fmt: skip
    made = [inputs, keras.Input((4, 4, 3))]
    for i in range(2):
        for step in steps:
            made[i] = step(made[i])
    (group,) = [g for g in graphs.groups(graphs.trace(keras.Model(inputs, made[0]))) if g.name == "a"]
    assert (group.width, len(group.free), group.blocks) == (12, 12, ())
