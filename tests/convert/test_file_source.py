"""Files made of a float `.tflite`: as good as from the Keras model, and nothing of a file is believed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfstruct import check_target, cli, to_tflite, verify
from tfstruct.convert import Converter, Recipe, flatbuffer, pack, unpack
from tfstruct.convert.flatbuffer import schema
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ConversionError, RecipeError

X = np.random.default_rng(0).normal(size=(120, 8, 8, 3)).astype("float32")


def convolutions():
    x = keras.Input((8, 8, 3), name="image")
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", name="conv")(x))
    y = layers.ReLU()(y)
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depth")(y) + y
    y = layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, layers.Dense(4, activation="softmax", name="scores")(layers.Dense(8, name="dense")(y)))


def recurrent():
    x = keras.Input((6, 4), name="steps")
    return keras.Model(x, layers.Dense(3, name="scores")(layers.LSTM(5, unroll=True)(x)))


def two_inputs():
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((5,), name="b")
    y = layers.Concatenate()([layers.Flatten()(layers.Conv2D(4, 3)(a)), layers.Dense(4)(b)])
    return keras.Model([a, b], {"boxes": layers.Dense(4)(y), "classes": layers.Dense(3, activation="softmax")(y)})


def samples(model):
    rng = np.random.default_rng(0)  # of its own: what is drawn does not depend on the tests before
    found = {x.name: rng.normal(size=(120, *x.shape[1:])).astype("float32") for x in model.inputs}
    return found if len(found) > 1 else next(iter(found.values()))


MODELS = {"convolutions": convolutions, "recurrent": recurrent, "two inputs": two_inputs}


def of_tensorflow(model, folder, *, halves=False):
    """What TensorFlow's own converter writes: an open batch, long names, weights of 16 bits where asked."""
    model.export(folder, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    if halves:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def worst(report):
    return min(one.sqnr_db for one in report.verification.outputs)


def against_keras(model, file, x) -> float:
    """Decibels of the worst output, found by its shape: TensorFlow's converter does not keep names."""
    truth = model.predict(x, verbose=0)
    truth = list(truth.values()) if isinstance(truth, dict) else [truth]
    runtime, given = Runtime(file.content), list(x.values()) if isinstance(x, dict) else [x]
    ours = runtime.run_all({p.name: next(v for v in given if v.shape[1:] == p.shape[1:]) for p in runtime.inputs})
    pairs = [(t, next(r for r in ours.values() if r.shape == t.shape)) for t in truth]
    return min(10 * np.log10(np.square(t).sum() / np.square(t - r).sum()) for t, r in pairs)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return convolutions()


@pytest.fixture(scope="module")
def floats(model, process):
    with Converter(model, process=process) as converter:
        return converter.convert("float32", measure_latency=False)


@pytest.fixture(scope="module")
def int8(floats, process):
    with Converter(floats.content, process=process) as converter:
        return converter.convert("int8", calibration=X)


@pytest.mark.parametrize("precision", ["int8", "int16x8", "int4", "dynamic", "float16"])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("origin", ["tfstruct", "tensorflow"])
@pytest.mark.sweep(3)
def test_as_good_as_from_the_keras_model(kind, origin, precision, process, tmp_path):
    # Of TensorFlow's file of an LSTM, which adds biases and first states by themselves, one draw tells little.
    draws = (1, 2, 3) if (kind, origin) == ("recurrent", "tensorflow") else (1,)
    lost = []
    for draw in draws:
        keras.utils.set_random_seed(draw)
        model = MODELS[kind]()
        x = samples(model)
        data = {} if precision in ("dynamic", "float16") else {"calibration": x}
        recipe = Recipe(precision, verification=x, measure_latency=False, **data)
        with Converter(model, process=process) as converter:
            before = converter.convert(recipe)
            own = converter.convert("float32", measure_latency=False).content
        content = own if origin == "tfstruct" else of_tensorflow(model, tmp_path / f"m{draw}")
        with Converter(content, process=process) as converter:
            made = converter.convert(recipe)
        found = verify(model, own, x).outputs  # the files against Keras, not against the float file
        assert min(one.sqnr_db for one in found) > 90
        lost.append(against_keras(model, before, x) - against_keras(model, made, x))
    assert np.mean(lost) < 0.3
    assert not made.report.float_operators or precision in ("dynamic", "float16")
    assert "made from" in str(made.report)


def test_an_int8_file_is_whole(int8, floats, model, tmp_path):
    report = int8.report
    assert (report.model, report.verification.samples) == ("the file", 120)
    assert report.latency and report.source.startswith("the file (a .tflite file")
    assert int8.layer_errors()
    assert {layer for op in report.operators for layer in op.layers} >= {"dense", "scores"}
    assert check_target(int8, "edgetpu").fits
    assert Runtime(unpack(pack(int8))).inputs[0].dtype == np.int8
    int8.save(tmp_path / "int8.tflite")
    floats.save(tmp_path / "float.tflite")
    again = verify(tmp_path / "float.tflite", tmp_path / "int8.tflite", X)
    assert again.outputs == report.verification.outputs
    assert verify(model, int8, X).outputs[0].sqnr_db > 25


def test_what_recipes_say_of_layers_is_said_of_tensors(floats, process):
    with Converter(floats.content, process=process) as converter:
        file = converter.convert("int8", calibration=X, layers={"scores": "float32"}, input_type="uint8")
        with pytest.raises(RecipeError, match="matches no tensor"):
            converter.convert("int8", calibration=X, layers={"head": "float32"})
        with pytest.raises(RecipeError, match="no tensors or inputs"):
            converter.convert("int8", calibration=X, ranges={"head": (0, 1)})
        with pytest.raises(RecipeError, match="Keras model"):
            converter.convert("int8", calibration=X, weight_limits={"conv/kernel": 1.0})
        with pytest.raises(RecipeError, match="keeps its own"):
            converter.convert("int8", calibration=X, input_shapes={"image": (8, 8, 3)})
        with pytest.raises(RecipeError, match="Expected 1, or None"):
            converter.convert("int8", calibration=X, batch_size=4)
    assert file.inputs[0].dtype == np.uint8
    assert {op.layers for op in file.report.float_operators} == {("scores",)}


def test_weights_of_16_bits_are_taken(model, process, tmp_path):
    with Converter(of_tensorflow(model, tmp_path / "m", halves=True), process=process) as converter:
        made = converter.convert("int8", calibration=X, measure_latency=False)
    assert worst(made.report) > 25 and not made.report.float_operators


def test_an_open_batch_stays_open_where_asked(model, process, tmp_path):
    with Converter(of_tensorflow(model, tmp_path / "m"), process=process) as converter:
        fixed = converter.convert("int8", calibration=X, measure_latency=False)
        dynamic = converter.convert("int8", calibration=X, batch_size=None, measure_latency=False)
    assert (fixed.inputs[0].shape[0], dynamic.inputs[0].shape[0]) == (1, None)
    np.testing.assert_allclose(fixed.predict(X[:9]), dynamic.predict(X[:9]), atol=2 / 256)


def test_files_of_keras_are_told_the_way(tmp_path):
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    net.save(tmp_path / "net.keras")
    net.save(tmp_path / "net.h5")
    net.export(tmp_path / "net", verbose=False)
    for name in ("net.keras", "net.h5", "net"):
        with pytest.raises(ConversionError, match=r"load it first, tfstruct\.legacy\.load\(path\)"):
            to_tflite(tmp_path / name)


def test_what_is_no_float_file_is_refused(int8, floats, process, tmp_path):
    (tmp_path / "keras.tflite").write_bytes(b"PK\x03\x04 no file")
    for bad, what in [
        (int8.content, "quantized already"),
        (b"1234TFL3" + bytes(40), "damaged|Expected"),
        (floats.content[: len(floats.content) // 2], "damaged"),
        (tmp_path / "keras.tflite", "Expected a .tflite file"),
    ]:
        with pytest.raises(ConversionError, match=what):
            to_tflite(bad, "int8", calibration=X)
    model = flatbuffer.read(floats.content)
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode, code.version = 32, 32, b"Evil", 1
    model.operatorCodes[0] = code
    with pytest.raises(ConversionError, match="custom operator Evil"):
        to_tflite(flatbuffer.write(model), "int8", calibration=X)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.sweep(4)
def test_a_damaged_file_raises_one_kind_of_error(floats, process, seed):
    rng = np.random.default_rng(seed)
    content = bytearray(floats.content)
    for place in rng.integers(8, len(content), 30):
        content[place] = rng.integers(0, 256)
    with Converter(bytes(floats.content), process=process) as sound:
        assert sound.convert("float32", measure_latency=False).report.size
    try:
        with Converter(bytes(content), process=process) as converter:
            converter.convert("float32", measure_latency=False)
    except (ConversionError, RecipeError):
        pass


def test_the_command(floats, tmp_path, monkeypatch, capsys):
    floats.save(tmp_path / "float.tflite")
    np.save(tmp_path / "x.npy", X)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["float.tflite", "-o", "int8.tflite", "--calibration", "x.npy", "--target", "micro"]) == 0
    said = capsys.readouterr().out
    assert "float.tflite (a .tflite file" in " ".join(said.split())
    for arguments, what in [
        (["none.tflite", "-o", "a.tflite"], "There is no file none.tflite"),
        (["float.tflite", "-o", "a.tflite", "--optimize"], "--optimize is for Keras models"),
        (["int8.tflite", "-o", "a.tflite", "--calibration", "x.npy"], "quantized already"),
    ]:
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert what in error and error.count("\n") == 1
