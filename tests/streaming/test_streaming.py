"""Models made streaming equal themselves on whole sequences, frame by frame."""

import keras
import numpy as np
import pytest
from keras import layers
from streaming.streamed_layers import FRAMES
from streaming.streamed_models import ds_cnn, gru, sequences, shaken, tcn
from streaming.streamed_windows import ARGUMENTS, WINDOWS

import tfstruct
from tfstruct.errors import DataError

CASES = {**FRAMES, **WINDOWS}


def model_of(name: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    return shaken(CASES[name]())


@pytest.mark.sweep(20)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("hops", [1, 3])
def test_every_kind_of_layer(name, hops):
    """Against the layers run on all frames at once; and against the model itself where it takes any length."""
    model, arguments = model_of(name), ARGUMENTS.get(name, {})
    made = tfstruct.to_streaming(model, **arguments)
    if hops > 1 and name != "rnn_and_window":  # whose window of 20 frames three do not divide
        made = tfstruct.to_streaming(model, made.plan.hop * hops, **arguments)
    assert made.difference < 1e-5
    plan = made.plan
    open_sizes = all(x.shape[ARGUMENTS.get(name, {}).get("time_axis", 1)] is None for x in model.inputs)
    if not open_sizes or len(model.inputs) * len(model.outputs) > 1 or "window" in arguments:
        return
    (given,), (out,) = plan.inputs, plan.outputs
    shape = list(given.shape)
    shape[given.axis - 1] *= 20
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, *shape)) if "float" in given.dtype else rng.integers(1, 19, (2, *shape))
    x = x.astype(given.dtype)
    ours, whole = made.run(x), np.asarray(model(x))
    if out.axis is None:
        if not out.delay:
            np.testing.assert_allclose(ours[:, -1], whole, atol=1e-5)
        return
    count = ours.shape[out.axis]
    assert count > whole.shape[out.axis] * 0.5
    np.testing.assert_allclose(ours, np.take(whole, range(count), out.axis), atol=1e-5)


@pytest.mark.parametrize("model", [tcn(), gru(sequences=True)], ids=["tcn", "gru"])
def test_200_frames(model):
    x = sequences(3, 200, *model.input_shape[2:])
    made = tfstruct.to_streaming(model)
    np.testing.assert_allclose(made.run(x), model(x), atol=1e-5)
    assert [(out.delay, out.wait) for out in made.plan.outputs] == [(0, 1)]


def test_the_last_output_of_a_recurrent_layer_is_that_of_all_frames_so_far():
    model = gru()
    x = sequences(2, 40, 8)
    made = tfstruct.to_streaming(model).run(x)
    for n in (1, 7, 40):
        np.testing.assert_allclose(made[:, n - 1], model(x[:, :n]), atol=1e-5)


def test_a_keyword_spotter_without_padding_equals_itself_on_every_window():
    model = ds_cnn("valid")
    x = sequences(2, 200, 10, 1)
    made = tfstruct.to_streaming(model)
    found = made.run(x)
    assert found.shape == (2, 77, 12)
    for window in range(0, 76, 5):
        np.testing.assert_allclose(found[:, window], model(x[:, 2 * window : 2 * window + 49]), atol=1e-5)
    assert made.plan.outputs[0].delay == 0 and made.plan.outputs[0].wait <= 50


def test_a_padded_keyword_spotter_equals_its_layers_run_over_the_whole_stream():
    """Features of 201 frames by the original convolutions, then means of 25 of them by NumPy."""
    model, longer = ds_cnn("same"), ds_cnn("same", frames=201)
    longer.set_weights(model.get_weights())
    x = sequences(1, 201, 10, 1)
    features = np.asarray(keras.Model(longer.input, longer.get_layer("pool").input)(x))
    means = np.stack([features[:, i : i + 25].mean((1, 2)) for i in range(features.shape[1] - 24)], 1)
    expected = np.asarray(model.get_layer("words")(means))
    made = tfstruct.to_streaming(model)
    found = made.run(x)
    np.testing.assert_allclose(found, expected[:, : found.shape[1]], atol=1e-5)
    # Feature 24 of a window reads up to its frame 2 * 24 + 5 + 4 * 2 = 61, 13 beyond the window.
    assert made.plan.outputs[0].delay == 13 and made.plan.outputs[0].wait == 62
    np.testing.assert_allclose(made.whole(x)[:, : found.shape[1]], found, atol=1e-5)
    assert dict(made.report.remarks)["pads with zeros before the first frame of the stream"][0] == "stem"


def test_without_an_exact_start_there_is_no_state_for_it_and_later_outputs_are_the_same():
    model = ds_cnn("same")
    exact, free = tfstruct.to_streaming(model), tfstruct.to_streaming(model, exact_start=False)
    assert len(free.plan.states) == len(exact.plan.states) - 1
    x = sequences(1, 150, 10, 1)
    np.testing.assert_allclose(exact.run(x)[:, 12:], free.run(x)[:, 12:], atol=1e-5)
    assert free.difference is None


def test_call_by_call():
    model = ds_cnn("valid")
    made = tfstruct.to_streaming(model)
    x = sequences(1, 60, 10, 1)
    stream, got = made.start(), []
    assert not stream.ready
    for n in range(30):
        y = stream(x[:, 2 * n : 2 * n + 2])
        assert stream.ready == (2 * n + 2 >= made.plan.outputs[0].wait)
        if stream.ready:
            got.append(y)
    np.testing.assert_allclose(np.stack(got, 1), made.run(x), atol=1e-6)
    with pytest.raises(DataError, match="'sound' takes"):
        stream(x[:, :3])
    stream.reset()
    assert stream.calls == 0 and not stream.ready
    with pytest.raises(DataError, match="takes sequences of shape"):
        made.run(x[..., 0])


def test_the_model_is_plain_keras(tmp_path):
    made = tfstruct.to_streaming(tcn())
    made.model.save(tmp_path / "streaming.keras")
    loaded = keras.models.load_model(tmp_path / "streaming.keras")
    rng = np.random.default_rng(0)
    given = {x.name: rng.normal(size=(2, *x.shape[1:])).astype("float32") for x in loaded.inputs}
    for name, value in loaded(given).items():
        np.testing.assert_allclose(value, made.model(given)[name], atol=1e-6)


def test_the_original_is_as_it_was():
    model = ds_cnn("same")
    weights, config = model.get_weights(), model.get_config()
    tfstruct.to_streaming(model)
    assert model.get_config() == config
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_branches_share_the_frames_that_they_hold():
    x = series = keras.Input((None, 4), name="series")
    branches = [layers.Conv1D(4, k, padding="causal", name=f"branch{k}")(x) for k in (2, 5, 3)]
    made = tfstruct.to_streaming(keras.Model(series, layers.Add()(branches)))
    assert [state.shape for state in made.plan.states] == [(4, 4)]


def test_a_window_of_a_model_that_leaves_its_length_open():
    series = keras.Input((None, 4), name="series")
    x = layers.Conv1D(6, 3, name="conv")(series)
    model = keras.Model(series, layers.GlobalMaxPooling1D(name="most")(x))
    made = tfstruct.to_streaming(model, window=20)
    x = sequences(1, 50, 4)
    found = made.run(x)
    assert found.shape == (1, 31, 6)
    for start in (0, 13, 30):
        np.testing.assert_allclose(found[:, start], model(x[:, start : start + 20]), atol=1e-6)


def test_masks_are_left_out():
    """Of sequences without padding the outputs are those of the model."""
    ids = keras.Input((12,), dtype="int32", name="ids")
    table = layers.Embedding(9, 4, mask_zero=True, name="table")(ids)
    x = layers.TimeDistributed(layers.Dense(4))(layers.Masking(name="masking")(table))
    model = shaken(keras.Model(ids, layers.GRU(3, name="gru")(x)))
    made = tfstruct.to_streaming(model)
    x = np.random.default_rng(0).integers(1, 9, (2, 12)).astype("int32")
    np.testing.assert_allclose(made.run(x)[:, -1], model(x), atol=1e-5)
    (what,) = [paths for said, paths in made.report.remarks if "its mask is left out" in said]
    assert {"masking", "gru"} <= set(what)
