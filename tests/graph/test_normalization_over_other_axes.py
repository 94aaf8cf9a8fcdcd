"""Group normalization averages over every axis but the batch: also over channels that another axis carries."""

import keras
import zoo
from keras import layers
from oracle import assert_pruned_equals_masked

from tfstruct import graph as graphs


def test_channels_on_another_axis_are_not_lossless():
    inputs = keras.Input((4, 3))
    x = layers.Permute((2, 1))(layers.Dense(8, name="moved")(inputs))
    x = layers.GroupNormalization(2)(x)
    model = zoo.randomise(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    (group,) = [g for g in graphs.groups(graphs.trace(model)) if g.name == "moved"]
    assert "takes statistics over channels" in group.lossy
    *_, smaller = assert_pruned_equals_masked(model, 0.4, inputs=zoo.sample_inputs(model, 3))
    assert smaller.get_layer("moved").units < 8
