"""Streaming files: states copied byte by byte, outputs over sequences as those of the model and of its whole file."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers
from streaming.streamed_models import ds_cnn, gru, sequences, shaken, tcn

import tfstruct
from tfstruct.convert import Converter, StreamingFile, describe, file_notes, flatbuffer, stream_states
from tfstruct.errors import ConversionError, DataError, RecipeError


@pytest.fixture
def converted(process):
    """Makes a model streaming, and a file of it."""

    def convert(model, precision="int8", x=None, **fields):
        made = tfstruct.to_streaming(model)
        with Converter(made, process=process) as converter:
            return made, converter.convert(precision, calibration=x, measure_latency=False, **fields)

    return convert


def steps(made, lite, x) -> np.ndarray:
    """How far the file is from its float model, in steps of its output."""
    (out,) = made.plan.outputs
    scale = next(port.scale for port in lite.outputs if port.name == out.name)
    return np.abs(lite.predict(x) - made.run(x)) / scale


def states_alike(lite) -> bool:
    """Whether what comes out can go in as it is."""
    inputs, outputs = ({port.name: port for port in side} for side in (lite.inputs, lite.outputs))
    pairs = [(inputs[s.input], outputs[s.output]) for s in lite.report.streaming.states]
    return bool(pairs) and all((a.dtype, a.scale, a.zero_point) == (b.dtype, b.scale, b.zero_point) for a, b in pairs)


@pytest.mark.parametrize("padding", ["valid", pytest.param("same", marks=pytest.mark.slow)])
def test_a_keyword_spotter_in_int8(converted, padding):
    x = sequences(12, 200, 10, 1)
    made, lite = converted(ds_cnn(padding), x=x)
    assert states_alike(lite) and not lite.report.float_operators
    assert steps(made, lite, x[:3]).max() <= 2
    assert lite.report.state_bytes == sum(state.size for state in made.plan.states)
    assert lite.report.verification.samples == 12
    said = str(lite.report)
    assert "a call takes" in said and f"{lite.report.state_bytes:,} bytes a stream" in said
    assert json.loads(lite.report.to_json())["streaming"]["hop"] == 2
    assert lite.report.recipe["samples"] == 500


def test_a_causal_network_in_int8_is_its_whole_file_frame_by_frame(converted, process):
    """With the ranges of the same data both compute the same integers."""
    model, x = tcn(), sequences(10, 200, 6)
    _, lite = converted(model, x=x)
    with Converter(model, process=process) as converter:
        whole = converter.convert("int8", calibration=x, input_shapes={"series": (200, 6)}, measure_latency=False)
    step = next(port.scale for port in whole.outputs)
    assert states_alike(lite)
    assert np.abs(lite.predict(x[:3]) - whole.predict(x[:3])).max() <= 2 * step


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic", "int8", "int16x8", "int4"])
@pytest.mark.parametrize("model", [tcn(), gru(), ds_cnn("same")], ids=["tcn", "gru", "ds_cnn"])
def test_every_precision(converted, model, precision):
    x = sequences(8, 200, *model.input_shape[2:])
    made, lite = converted(model, precision, x)
    assert states_alike(lite)
    error = np.abs(lite.predict(x[:2]) - made.run(x[:2])).max() / np.abs(made.run(x[:2])).max()
    assert (
        error
        < {"float32": 1e-5, "float16": 0.01, "dynamic": 0.05, "int8": 0.1, "int16x8": 0.05, "int4": 0.6}[precision]
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LSTM", "SimpleRNN", "ConvLSTM1D", "Embedding", "two inputs", "float_io", "uint8"])
def test_kinds(converted, kind):
    series = keras.Input((None, 8), name="series")
    x, fields, shape, inputs = series, {}, (8, 60, 8), series
    if kind in ("LSTM", "SimpleRNN"):
        y = getattr(layers, kind)(6, return_sequences=True)(x)
    elif kind == "ConvLSTM1D":
        inputs = keras.Input((None, 8, 2), name="series")
        y, shape = layers.ConvLSTM1D(3, 3, padding="same", return_sequences=True)(inputs), (8, 60, 8, 2)
    elif kind == "Embedding":
        inputs = keras.Input((None,), dtype="int32", name="ids")
        y, shape = layers.Conv1D(4, 3, padding="causal")(layers.Embedding(9, 8)(inputs)), (8, 60)
    elif kind == "two inputs":
        who = keras.Input((3,), name="who")
        y, inputs = (
            layers.Conv1D(4, 3, padding="causal")(x) * layers.Reshape((1, 4))(layers.Dense(4)(who)),
            [series, who],
        )
    else:
        y = layers.Conv1D(4, 3, padding="causal")(x)
        fields = {"float_io": True} if kind == "float_io" else {"input_type": "uint8", "output_type": "float32"}
    model = shaken(keras.Model(inputs, layers.Dense(3, name="out")(y)))
    rng = np.random.default_rng(0)
    given = rng.integers(0, 9, shape).astype("int32") if kind == "Embedding" else sequences(*shape[:2], *shape[2:])
    if kind == "two inputs":
        given = {"series": given, "who": rng.normal(size=(8, 3)).astype("float32")}
    made, lite = converted(model, x=given, **fields)
    assert states_alike(lite)
    truth = made.run(given)
    assert np.abs(lite.predict(given) - truth).max() < 0.06 * np.abs(truth).max()
    if kind == "uint8":
        types = {port.name: port.dtype.name for port in (*lite.inputs, *lite.outputs)}
        assert types["series"] == "uint8" and types["out"] == "float32"
        assert all(types[state.input] == "int8" for state in made.plan.states)


@pytest.fixture(scope="module")
def small():
    """A small streaming model and its float file."""
    series = keras.Input((None, 4), name="series")
    model = shaken(keras.Model(series, layers.Conv1D(3, 4, padding="causal", name="conv")(series)))
    made = tfstruct.to_streaming(model)
    return model, made, tfstruct.to_tflite(made, measure_latency=False)


def test_a_float_file_from_disk(small, tmp_path):
    model, made, lite = small
    lite.save(tmp_path / "streaming.tflite")
    file = StreamingFile(tmp_path / "streaming.tflite")
    x = sequences(2, 200, 4)
    np.testing.assert_allclose(file.run(x), model(x), atol=1e-5)
    assert file.plan == made.plan and file.state_bytes == 3 * 4 * 4
    one, two = file.start(), file.start()  # they do not disturb each other
    for n in range(6):
        a, b = one(x[:1, n : n + 1]), two(x[1:, n : n + 1])
    np.testing.assert_allclose(a[:, 0], model(x)[:1, 5], atol=1e-5)
    np.testing.assert_allclose(b[:, 0], model(x)[1:, 5], atol=1e-5)
    assert "a call takes" in str(describe(tmp_path / "streaming.tflite"))
    assert lite.report.verification.random


def test_verify_over_sequences(small):
    _, made, lite = small
    found = tfstruct.verify(made, lite, sequences(3, 50, 4))
    assert found.samples == 3 and found.outputs[0].max_abs_error < 1e-5


def test_a_label_is_that_of_the_last_output():
    series = keras.Input((None, 4), name="series")
    model = shaken(keras.Model(series, layers.GRU(3, return_sequences=True, name="gru")(series)))
    x = sequences(6, 30, 4)
    labels = np.asarray(model(x))[:, -1].argmax(-1)
    made = tfstruct.to_streaming(model)
    lite = tfstruct.to_tflite(made, verification=(x, labels), measure_latency=False)
    assert lite.report.verification.keras.accuracy == lite.report.verification.tflite.accuracy == 1


def test_windows_are_joined_to_streams_that_are_long_enough():
    """A window of the training is shorter than what lookahead takes."""
    x = sequences(30, 49, 10, 1)
    made = tfstruct.to_streaming(ds_cnn("same"))
    lite = tfstruct.to_tflite(made, verification=(x, np.zeros(30, int)), measure_latency=False)
    assert "joined end to end" in lite.report.verification.source and lite.report.verification.keras is None
    with pytest.raises(DataError, match="expected longer ones, or more of them"):
        tfstruct.to_tflite(made, verification=x[:1], measure_latency=False)


def test_a_mean_of_all_frames_has_no_integers(converted):
    series = keras.Input((None, 4), name="series")
    model = keras.Model(series, layers.GlobalAveragePooling1D(name="mean")(layers.Dense(4)(series)))
    x = sequences(4, 30, 4)
    with pytest.raises(RecipeError, match=r"`mean` is the mean of all frames since the start.*window=N"):
        converted(model, x=x)
    lite = tfstruct.to_tflite(tfstruct.to_streaming(model, window=8), "int8", calibration=x, measure_latency=False)
    assert states_alike(lite)


def test_a_note_is_judged(small):
    _, made, lite = small
    assert stream_states.plan_of(lite.content) == made.plan
    with pytest.raises(ConversionError, match="Expected a streaming"):
        StreamingFile(lite.reference)
    data = made.plan.to_dict()
    changes = [
        {"hop": 0},
        {"hop": None},
        {"states": 3},
        {"states": [{**data["states"][0], "input": "other"}]},
        {"inputs": []},
    ]
    for change in changes[:4]:
        model = flatbuffer.read(lite.content)
        file_notes.write_note(model, "tfstruct.streaming", json.dumps({**data, **change}).encode())
        with pytest.raises(ConversionError, match="note of its streaming"):
            StreamingFile(flatbuffer.write(model))


def test_unequal_scales_are_an_error(small):
    _, made, _ = small
    model = keras.Sequential([keras.Input((4, 4), name="series"), layers.Dense(3, name="conv")])
    other = tfstruct.to_tflite(model, "int8", calibration=sequences(9, 4, 4), measure_latency=False)
    state = dataclasses.replace(made.plan.states[0], input=other.inputs[0].name, output=other.outputs[0].name)
    with pytest.raises(ConversionError, match="its bytes cannot be copied"):
        stream_states.check(other.content, dataclasses.replace(made.plan, states=(state,)))
