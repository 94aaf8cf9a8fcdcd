"""Ranges where one layer moves several tensors: each keeps its own, in twin and file."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import to_tflite
from tfstruct.quantize import calibrate

MOVERS = {
    "dropout": lambda: layers.Dropout(0.1),
    "reshape": lambda: layers.Reshape((5, 8)),
    "turned": lambda: layers.Permute((2, 1)),
    "cut": lambda: layers.Cropping1D(1),
}


@pytest.mark.parametrize("name", MOVERS)
def test_a_layer_that_moves_two_tensors_ties_them_not(name):
    keras.utils.set_random_seed(0)
    mover, ids, x = MOVERS[name](), keras.Input((5,), name="ids"), keras.Input((5, 8), name="x")
    small = layers.Embedding(9, 8, embeddings_initializer=keras.initializers.RandomNormal(0, 0.1), name="small")(ids)
    large = layers.Dense(8, kernel_initializer=keras.initializers.RandomNormal(0, 5.0), name="large")(x)
    model = keras.Model([ids, x], [mover(small), mover(large)])
    rng = np.random.default_rng(0)
    data = {"ids": rng.integers(0, 9, (64, 5)).astype("float32"), "x": rng.normal(size=(64, 5, 8)).astype("float32")}
    twin = calibrate(model, data)
    assert twin.ranges()["small"][1] < 1 < 10 < twin.ranges()["large"][1]
    file = to_tflite(twin, "int8", calibration=data, measure_latency=False)
    ours = twin([data["ids"], data["x"]], training=False)
    for made, port in zip(ours, file.outputs, strict=True):
        theirs = file.predict(data)[port.name]
        assert np.abs(np.asarray(made) - theirs).max() < 1.01 * port.scale
