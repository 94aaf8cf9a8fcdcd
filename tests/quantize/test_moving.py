"""Operations that only move values have the range of what they move, in the twin as in the file."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct import quantize, to_tflite
from tfstruct.convert import flatbuffer

MOVERS = {
    "upsampling": lambda x: layers.UpSampling2D(2)(x),
    "resizing": lambda x: layers.Resizing(9, 9, interpolation="nearest")(x),
    "resize": lambda x: ops.image.resize(x, (9, 9), interpolation="nearest"),
    "padding": lambda x: layers.ZeroPadding2D(1)(x),
    "cropping": lambda x: layers.Cropping2D(1)(x),
    "reflect": lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect"),
    "swapaxes": lambda x: ops.swapaxes(x, 1, 2),
    "flip": lambda x: ops.flip(x, 1),
    "roll": lambda x: ops.roll(x, 2, 1),
    "repeat": lambda x: ops.repeat(x, 2, 1),
    "tile": lambda x: ops.tile(x, (1, 2, 1, 1)),
    "max": lambda x: ops.max(x, 1, keepdims=True),
    "take": lambda x: ops.take(x, np.array([4, 0, 2]), 1),
    "bilinear": lambda x: layers.UpSampling2D(2, interpolation="bilinear")(x),
    "average": lambda x: layers.AveragePooling2D(2)(x),
    "pooled relu": lambda x: layers.ReLU()(layers.MaxPooling2D(2)(x)),
    "averaged relu": lambda x: layers.ReLU()(layers.AveragePooling2D(2)(x)),
    "identity": lambda x: layers.Identity()(x),
    "linear": lambda x: layers.Activation("linear")(x),
    "scaled by one": lambda x: layers.Rescaling(1.0)(x),
    "padded by zero": lambda x: layers.ZeroPadding2D(0)(x),
    "regularized": lambda x: layers.ActivityRegularization(0.1)(x),
}


@pytest.fixture(scope="module")
def pair():
    keras.utils.set_random_seed(0)
    i = keras.Input((6, 6, 3))
    made = []
    for name, move in MOVERS.items():
        h = move(layers.Conv2D(4, 3, padding="same", name=f"{name}_before".replace(" ", "_"))(i))
        made.append(layers.Conv2D(2, 3, padding="same", name=f"{name}_after".replace(" ", "_"))(h))
    model = keras.Model(i, made)
    x = np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype("float32")
    twin = quantize.calibrate(model, x)
    # Ranges that training has moved, each on its own.
    rng = np.random.default_rng(1)
    for bounds in twin.simulation.bounds.values():
        low, high = bounds.pair()
        bounds.set(low * rng.uniform(0.5, 1.2), high * rng.uniform(0.5, 1.2))
    return twin, to_tflite(twin), x[:16]


@pytest.mark.parametrize("name", MOVERS)
@pytest.mark.sweep(6)
def test_file_and_twin_agree_behind_what_moves_values(pair, name):
    twin, file, x = pair
    place = list(MOVERS).index(name)
    after = f"{name}_after".replace(" ", "_")
    step = np.ptp(twin.ranges()[after]) / 255
    ours, truth = file.predict(x)[after], np.asarray(twin(x)[place])
    assert np.abs(ours - truth).max() < 1.5 * step


def test_an_operator_that_moves_has_one_scale(pair):
    model = flatbuffer.read(pair[1].content)
    graph = model.subgraphs[0]
    moving = ("RESIZE_NEAREST_NEIGHBOR", "PAD", "MIRROR_PAD", "TRANSPOSE", "GATHER", "TILE", "CONCATENATION")
    seen = set()
    for op in graph.operators:
        name = flatbuffer.operator_name(model, op)
        if name in moving:
            seen.add(name)
            source, target = (graph.tensors[i].quantization.scale[0] for i in (op.inputs[0], op.outputs[0]))
            assert source == target
    assert {"RESIZE_NEAREST_NEIGHBOR", "PAD", "MIRROR_PAD", "TRANSPOSE"} <= seen


def test_bilinear_upsampling_makes_new_values():
    i = keras.Input((4, 4, 2))
    model = keras.Model(i, layers.UpSampling2D(2, interpolation="bilinear", name="up")(layers.Conv2D(2, 1)(i)))
    rounding_points = quantize.calibrate(model, np.ones((4, 4, 4, 2), "float32")).simulation.rounding_points
    assert id(model.get_layer("up")) not in rounding_points.movers
