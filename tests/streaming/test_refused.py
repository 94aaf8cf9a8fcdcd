"""What cannot stream is an error that names the layer and says why; what the error advises works."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfstruct
from tfstruct.errors import ArgumentError, ModelError


def model(*chain, frames=12, features=6, dtype="float32"):
    x = series = keras.Input((frames, features) if features else (frames,), name="series", dtype=dtype)
    for layer in chain:
        x = layer(x)
    return keras.Model(series, x)


def attended(x):
    return layers.MultiHeadAttention(2, 4, name="attention")(x, x)


@pytest.mark.parametrize(
    "chain, path, why",
    [
        ([layers.Bidirectional(layers.GRU(3), name="both")], "both", "its backward layer starts from the last frame"),
        ([attended], "attention", "each frame attends to all others"),
        ([layers.LayerNormalization(axis=1, name="norm")], "norm", "depends on others"),
        ([layers.GroupNormalization(3, name="groups")], "groups", "depends on others"),
        ([layers.Softmax(axis=1, name="soft")], "soft", "depends on others"),
        ([lambda x: ops.flip(x, 1)], "flip", "depends on others"),
        ([lambda x: ops.cumsum(x, 1)], "cumsum", "depends on others"),
        ([lambda x: x + np.ones((1, 12, 6), "float32")], "add", "depends on others"),
        ([layers.GRU(3, go_backwards=True, name="back")], "back", "from the last to the first"),
        ([layers.MaxPooling1D(3, 1, padding="same", name="most")], "most", "it pads frames with what is no zero"),
        ([layers.Conv1D(3, 3, data_format="channels_first", name="first")], "first", "its channels"),
    ],
)
def test_layers(chain, path, why):
    with pytest.raises(ModelError, match=rf"`{path}\w*` cannot stream: .*{why}"):
        tfstruct.to_streaming(model(*chain))


def test_an_open_number_of_frames():
    for layer in (layers.GlobalMaxPooling1D(name="most"), lambda x: ops.max(x, 1)):
        with pytest.raises(ModelError, match=r"leaves their number open: give window=N"):
            tfstruct.to_streaming(model(layer, frames=None))


@pytest.mark.parametrize(
    "layer, name", [(attended, "attention"), (layers.Bidirectional(layers.GRU(3), name="both"), "both")]
)
def test_the_advice_to_look_at_windows_anew(layer, name):
    whole = model(layers.Conv1D(4, 3), layer, layers.Dense(2))
    x = np.random.default_rng(0).normal(size=(1, 20, 6)).astype("float32")
    made = tfstruct.to_streaming(whole, windows=[name])
    np.testing.assert_allclose(made.run(x)[:, 4], whole(x[:, 4:16]), atol=1e-5)
    assert ("is computed anew in each call, for the whole window", (name,)) in made.report.remarks


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"hop": 3}, "`hop` must be a multiple of 2"),
        ({"hop": 0}, "`hop` must be a whole number"),
        ({"window": 20}, "has 12 frames: leave it out"),
        ({"windows": ["nobody"]}, "`windows` names no layer that gets frames: nobody"),
        ({"frames": ["nobody"]}, "Expected names of inputs"),
        ({"time_axis": 3}, "`time_axis` 3 is none of the input 'series'"),
        ({"time_axis": {"nobody": 1}}, "Expected names of inputs"),
    ],
)
def test_arguments(arguments, said):
    with pytest.raises(ArgumentError, match=said):
        tfstruct.to_streaming(model(layers.Conv1D(3, 4, strides=2)), **arguments)


def test_other_models():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ModelError, match="subclass"):
        tfstruct.to_streaming(Own())
    with pytest.raises(ModelError, match="has not been built"):
        tfstruct.to_streaming(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ModelError, match="Expected a keras"):
        tfstruct.to_streaming("model.keras")
