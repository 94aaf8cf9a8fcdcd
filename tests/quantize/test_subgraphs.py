"""Which calls are looked at as one."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers

from tfstruct.graph import trace
from tfstruct.graph.opening import open_by_itself
from tfstruct.quantize import blockwise
from tfstruct.quantize.rounding_points import RoundingPoints
from tfstruct.quantize.subgraphs import blocks, execute, operators


def residual(count=2):
    def conv(x, name, relu=True):
        x = layers.Conv2D(4, 3, padding="same", name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if relu else x

    inputs = keras.Input((8, 8, 3), name="image")
    x = conv(inputs, "stem")
    y = conv(conv(x, "a1"), "a2", relu=False)
    x = layers.ReLU(name="a_relu")(layers.Add(name="a_join")([x, y]))
    if count == 2:
        y = conv(conv(x, "b1"), "b2", relu=False)
        x = layers.Add(name="b_join")([layers.Conv2D(4, 1, name="b_short")(x), y])
        x = layers.ReLU(name="b_relu")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="net")


def paths(units):
    return [tuple(call.path for call in part.calls) for part in units]


def test_operators_are_what_the_file_fuses():
    found = paths(operators(RoundingPoints(trace(residual()))))
    assert ("stem", "stem_norm", "stem_relu") in found and ("a2", "a2_norm") in found
    assert ("a_join", "a_relu") in found and ("gap",) in found


def test_blocks_lie_between_tensors_through_which_everything_passes():
    found = [set(p) for p in paths(blocks(RoundingPoints(trace(residual()))))]
    assert found == [
        {"stem", "stem_norm", "stem_relu"},
        {"a1", "a1_norm", "a1_relu", "a2", "a2_norm", "a_join", "a_relu"},
        {"b1", "b1_norm", "b1_relu", "b2", "b2_norm", "b_short", "b_join", "b_relu"},
        {"gap"}, {"head"},
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["several", "nested", "shared", "concat"])
def test_units_put_together_are_the_model(name):
    model = zoo.build(name)
    x = zoo.sample_inputs(model, 3)
    graph = trace(model)
    flat = [x[i.name] for i in model.inputs] if isinstance(x, dict) else keras.tree.flatten(x)
    for found in (operators(RoundingPoints(graph)), blocks(RoundingPoints(graph))):
        values = {c.key: keras.ops.convert_to_tensor(v) for c, v in zip(graph.body.inputs, flat, strict=True)}
        for part in found:
            inside = {key: values[key] for key in part.inputs}
            execute(part.calls, inside)
            values.update({key: inside[key] for key in part.outputs})  # nothing else is needed
        for made, wanted in zip(graph.outputs, keras.tree.flatten(model(x)), strict=True):
            np.testing.assert_allclose(values[made.key], wanted, rtol=1e-5, atol=1e-6)


def test_a_weight_that_several_blocks_read_is_part_of_each():
    class Shared(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 5), name="w")

        def call(self, x, back=False):
            return keras.ops.relu(keras.ops.matmul(x, keras.ops.transpose(self.w) if back else self.w))

    inputs = keras.Input((4,))
    shared = Shared(name="shared")
    x = layers.Dense(3, name="mid")(shared(inputs))
    model = open_by_itself(keras.Model(inputs, shared(layers.Dense(5)(x), back=True))).model
    rounding_points = RoundingPoints(trace(model))
    parts = blocks(rounding_points)
    assert len(parts) > 1
    assert all(not {*part.inputs, *part.outputs} & rounding_points.folding.constants.keys() for part in parts)
    twin = blockwise(model, np.ones((8, 4), "float32"), steps=1)
    assert np.isfinite(keras.ops.convert_to_numpy(twin(np.ones((2, 4), "float32")))).all()
