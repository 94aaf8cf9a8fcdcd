"""The Keras model and its file are compared in batches that memory bounds."""

import keras
import numpy as np
import pytest

import tfstruct
from tfstruct.convert import verification


@pytest.fixture(scope="module")
def made():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6, 6, 2)), keras.layers.Conv2D(4, 3, name="conv"), keras.layers.GlobalAveragePooling2D()]
    )
    return model, tfstruct.to_tflite(model, "float32")


@pytest.mark.parametrize("memory", [1 << 28, 3 * 4 * 7 * (6 * 6 * 2 + 4 * 4 * 4)], ids=["at once", "a few at a time"])
def test_batches_are_called_alike(made, memory, monkeypatch):
    """Step by step where these are few; else traced once, for a last batch that is shorter too."""
    model, file = made
    x = np.random.default_rng(0).normal(size=(50, 6, 6, 2)).astype("float32")
    expected = np.mean(np.abs(model.predict(x, verbose=0) - file.predict(x)))
    sizes = []
    layer = model.get_layer("conv")
    call = layer.call
    monkeypatch.setattr(layer, "call", lambda x: sizes.append(x.shape[0]) or call(x))
    monkeypatch.setattr(verification, "_MEMORY", memory)
    found = tfstruct.verify(model, file, x)
    assert found.samples == 50 and len(sizes) == 1
    assert found.outputs[0].mean_abs_error == pytest.approx(expected, abs=1e-7)
    assert (sizes[0] == 50) == (memory == 1 << 28)
