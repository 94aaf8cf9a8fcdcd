"""What is done to a float file before quantizers see it: names, and splits of which parts are not read."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct import Recipe
from tfstruct.convert import flatbuffer
from tfstruct.convert.tflite import Converter

SPLITS = {
    "unstack": lambda x: [ops.unstack(x, axis=1)[1], ops.unstack(x, axis=-1)[0]],
    "split": lambda x: [ops.split(x, 2, axis=-1)[1]],
    "split at places": lambda x: [ops.split(x, [1, 3, 4], axis=1)[i] for i in (1, 3)],
}


@pytest.fixture(scope="module", params=["litert", "tensorflow"])
def files(request, process):
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 4))
    made = {}
    for number, (name, parts) in enumerate(SPLITS.items()):
        for i, part in enumerate(parts(layers.Dense(4, name=f"before_{number}")(x))):
            made[name, i] = layers.Dense(3, name=f"after_{number}_{i}")(part)
    model = keras.Model(x, list(made.values()))
    data = np.random.default_rng(0).normal(size=(64, 6, 4)).astype("float32")
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe(precision="int8", calibration=data, engine=request.param))
    found = file.predict(data)
    names = [layer.name for layer in model.layers if layer.name.startswith("after")]
    truth = dict(zip(names, map(np.asarray, model(data)), strict=True))
    return {key: (found[name], truth[name]) for key, name in zip(made, names, strict=True)}, file


@pytest.mark.parametrize("name", SPLITS)
def test_splits_of_which_parts_are_not_read(files, name):
    pairs = [pair for key, pair in files[0].items() if key[0] == name]
    assert pairs
    for found, truth in pairs:
        assert found.shape == truth.shape
        assert np.abs(found - truth).max() < 0.03 * np.ptp(truth)


def test_none_is_left(files):
    names = {op.name for op in flatbuffer.operators(files[1].content)}
    assert "STRIDED_SLICE" in names and not names & {"SPLIT", "SPLIT_V", "UNPACK"}
