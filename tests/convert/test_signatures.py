"""Several functions in one file: each as its model, weights once, every other reader right or refusing."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from tfstruct import cli, pack, to_streaming, to_tflite, unpack, verify
from tfstruct.cli import commands
from tfstruct.convert import (
    Converter,
    Metadata,
    Recipe,
    StreamingFile,
    check_target,
    describe,
    flatbuffer,
    join_signatures,
    read_metadata,
    signatures,
    split_signatures,
    test_vectors,
    write_metadata,
)
from tfstruct.convert.micro import write_c_array
from tfstruct.convert.ports import function_graphs
from tfstruct.convert.runtime import FunctionRuntime, Runtime
from tfstruct.errors import ArgumentError, ConversionError, DataError, RecipeError, VerificationError

X = np.random.default_rng(0).integers(0, 256, (120, 12, 12, 1)).astype("float32")
PLAIN = {"measure_latency": False}


def _heads():
    """Two heads of one trunk, which takes pixels."""
    keras.utils.set_random_seed(0)
    x = keras.Input((12, 12, 1), name="image")
    h = layers.Rescaling(1 / 127.5, offset=-1, name="to_one")(x)
    h = layers.Conv2D(8, 3, 2, "same", activation="relu", name="conv", bias_initializer="glorot_uniform")(h)
    trunk = layers.Dense(64, activation="relu", name="trunk", bias_initializer="glorot_uniform")
    h = trunk(layers.Flatten(name="flat")(h))
    kind = layers.Dense(5, name="kind", activation="softmax")(h)
    return keras.Model(x, kind, name="classifier"), keras.Model(x, layers.Dense(1, name="size")(h), name="regressor")


def _halves():
    """An autoencoder's halves."""
    keras.utils.set_random_seed(0)
    x, code = keras.Input((12, 12, 1), name="image"), keras.Input((6,), name="code")
    z = layers.Dense(6, name="code")(layers.Flatten()(layers.Conv2D(4, 3, strides=2, activation="relu")(x)))
    h = layers.Reshape((6, 6, 4))(layers.Dense(144, activation="relu")(code))
    made = layers.Conv2DTranspose(1, 3, strides=2, padding="same", name="made")(h)
    return keras.Model(x, z, name="encoder"), keras.Model(code, made, name="decoder")


@pytest.fixture(scope="module")
def heads():
    return dict(zip(("kind", "size"), _heads(), strict=True))


@pytest.fixture(scope="module")
def joined(heads):
    return to_tflite(heads, "int8", calibration=X, input_type="uint8", **PLAIN)


@pytest.fixture(scope="module")
def floats(heads):
    return to_tflite(heads, verification=X[:8], **PLAIN)


def test_the_interpreter_lists_each_function_and_runs_it_as_its_model(joined, heads):
    listed = Interpreter(model_content=joined.content).get_signature_list()
    assert listed == {
        "kind": {"inputs": ["image"], "outputs": ["kind"]}, "size": {"inputs": ["image"], "outputs": ["size"]},
    }  # fmt: skip
    for name, model in heads.items():
        # By the interpreter's own runner on raw pixels, and by ours.
        runner = Interpreter(model_content=joined.content).get_signature_runner(name)
        stored = runner(image=X[:1].astype("uint8"))[name]
        port = joined.functions[name].outputs[0]
        found = joined.predict(name, X)
        assert np.allclose(port.decode(stored), found[:1], atol=1e-6)
        assert np.array_equal(found, joined.functions[name].predict(X))
        assert np.abs(found - np.asarray(model(X))).max() < 8 * port.scale
        assert joined.report.functions[name].verification.figures()["sqnr_db"] > 20


def test_equal_constants_are_stored_once(joined, floats):
    for file in (joined, floats):
        alone = sum(len(one.content) for one in file.functions.values())
        assert len(file.content) < 0.6 * alone and file.report.apart == alone
        # The trunk and the convolution, in int8 and float32, with their biases and scales.
        weights = {"int8": 1, "float32": 4}[file.report.functions["kind"].precision] * (72 + 288 * 64)
        assert weights <= file.report.shared_bytes < 1.2 * weights + 1000
        assert not file.report.unshared  # the ranges are those of the same data, so biases are equal too
        assert f"{file.report.shared_bytes:,} bytes" in str(file.report)
    again = unpack(pack(joined))
    assert again == joined.content


def test_what_is_not_shared_is_said(heads):
    file = to_tflite(heads, "int8", calibration={"kind": X, "size": X / 4}, check_range=False, **PLAIN)
    names = {name for one in file.report.unshared for name in one.name}
    assert {"kind/trunk/bias", "size/trunk/bias"} <= names and "kind/trunk/kernel" not in names
    assert "not shared" in str(file.report) and "range differs" in str(file.report)
    mixed = to_tflite(heads, {"kind": "float32", "size": "dynamic"}, **PLAIN)
    whys = {one.why for one in mixed.report.unshared if "kind/trunk/kernel" in one.name}
    assert whys == {"float32 and int8"}


def test_each_function_has_data_and_precision_of_its_own():
    encoder, decoder = _halves()
    codes = np.asarray(encoder(X / 255))
    models = {"encode": encoder, "decode": decoder}
    recipes = {"encode": Recipe("int8", layers={"code": "float32"}, allow_float=True), "decode": "int8"}
    data = {"encode": X / 255, "decode": codes}
    file = to_tflite(models, recipes, calibration=data, **PLAIN)
    assert [len(report.float_operators) for report in file.report.functions.values()] == [1, 0]
    made = file.predict("decode", file.predict("encode", X / 255))
    whole = np.asarray(decoder(codes))
    assert np.sum((made - whole) ** 2) < 0.01 * np.sum(whole**2)


def test_a_file_of_several_functions_is_quantized_as_one(floats, joined):
    made = to_tflite(floats.content, "int8", calibration=X, **PLAIN)
    assert list(made.functions) == ["kind", "size"]
    for name in made.functions:
        assert np.abs(made.predict(name, X) - floats.predict(name, X)).max() < 8 * made.functions[name].outputs[0].scale


def _loops(steps: int):
    keras.utils.set_random_seed(steps)
    x = keras.Input((None, 4), name="sound")
    return keras.Model(x, layers.GRU(steps, name="gru")(x))


def test_loops_keep_their_bodies(process):
    models = {"one": _loops(3), "two": _loops(5)}
    parts = {}
    for name, model in models.items():
        with Converter(model, process=process) as converter:
            parts[name] = converter.convert("float32", **PLAIN).content
    assert all(len(flatbuffer.read(part).subgraphs) == 3 for part in parts.values())
    content = join_signatures(parts)
    x = np.random.default_rng(0).normal(size=(2, 7, 4)).astype("float32")
    apart = split_signatures(content)
    for name, part in parts.items():
        theirs = Runtime(part).run({"sound": x[:1]})
        for ours in (FunctionRuntime(content, name), Runtime(apart[name])):
            found = ours.run({"sound": x[:1]})
            assert all(np.allclose(found[key], value, atol=1e-6) for key, value in theirs.items())
    assert join_signatures(apart) == content


def test_a_file_of_tensorflow_is_read(tmp_path, heads):
    holder = tf.Module()
    holder.kept = [variable.value for model in heads.values() for variable in model.variables]
    made = {
        name: tf.function(lambda image, model=model, name=name: {name: model(image)}).get_concrete_function(
            tf.TensorSpec((1, 12, 12, 1), name="image")
        )
        for name, model in heads.items()
    }
    tf.saved_model.save(holder, str(tmp_path), signatures=made)
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path), signature_keys=list(made)).convert()
    parts = split_signatures(content)
    assert sorted(parts) == ["kind", "size"]
    for name, part in parts.items():
        assert np.allclose(Runtime(part).run_all({"image": X[:3]})[name], heads[name](X[:3]), atol=1e-4)
    found = describe(content)
    assert set(found.functions) == {"kind", "size"} and {port.name for port in found.inputs} == {
        "kind/image", "size/image",
    }  # fmt: skip


def test_preprocessing_in_the_scale_of_an_input_stays_with_its_function(joined):
    for name, part in split_signatures(joined.content).items():
        alone = joined.functions[name]
        assert Runtime(part).inputs[0].scale == alone.inputs[0].scale == 1
        assert np.array_equal(Runtime(part).run_all({"image": X[:5]})[name], alone.predict(X[:5]))
        # The tensor's own scale has the division in it.
        model = flatbuffer.read(part)
        stored = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].quantization.scale[0]
        assert stored == pytest.approx(1 / 127.5, rel=0.1)


def test_other_readers_are_right_or_refuse(joined, tmp_path):
    content = joined.content
    refused = [
        lambda: Runtime(content),
        lambda: test_vectors(content),
        lambda: write_c_array(content, tmp_path / "net.tflite"),
        lambda: join_signatures({"both": content, "more": content}),
        lambda: check_target(content, "micro"),
        lambda: verify(_heads()[0], content, X),
    ]
    for call in refused:
        with pytest.raises(ConversionError, match=r"several functions|functions kind, size"):
            call()
    assert not list(tmp_path.iterdir())
    mobile = check_target(content, "mobile")
    assert mobile.fits and len(mobile.rows) == sum(len(r.operators) for r in joined.report.functions.values())
    table = check_target(joined, ["mobile", "micro"])
    assert table.fitting == ("mobile",) and table.unknown == ("micro",) and str(table).count("first graph") == 1
    found = describe(joined)
    assert [port.name for port in found.outputs] == ["kind/kind", "size/size"] and "kind, size" in str(found)
    assert {op.layers[0].split("/")[0] for op in found.operators} == {"kind", "size"}
    part = split_signatures(content)["kind"]
    assert check_target(part, "micro").fits and verify(_heads()[0], part, X[:8]).samples == 8


def test_metadata_stay_with_their_functions(joined):
    labels = ("a", "b", "c", "d", "e")
    about = Metadata(
        author="me", outputs={"kind/kind": {"labels": labels}}, inputs={"size/image": {"description": "?"}}
    )
    file = joined.with_metadata(about)
    found = read_metadata(file)
    assert found.author == "me" and found.labels == {"kind/kind": labels}
    assert found.inputs["size/image"].description == "?" and found.inputs["kind/image"].content == "image"
    assert file.report.size == len(file.content) and describe(file).metadata == found
    parts = split_signatures(file)
    one, two = (read_metadata(parts[name]) for name in ("kind", "size"))
    assert one.labels == {"kind": labels} and two.labels == {} and one.author == two.author == "me"
    assert read_metadata(join_signatures(parts)) == found
    # Label files of one name and other words.
    other = write_metadata(split_signatures(joined.content)["kind"], Metadata(outputs={"kind": {"labels": "vwxyz"}}))
    both = read_metadata(join_signatures({"one": parts["kind"], "two": other}))
    assert both.labels == {"one/kind": labels, "two/kind": tuple("vwxyz")}
    with pytest.raises(ArgumentError, match="kind/kind"):
        joined.with_metadata(Metadata(outputs={"kind": {"labels": labels}}))


def test_streaming_files_are_joined_with_their_plans(process):
    x = keras.Input((None, 4), name="sound")
    streaming = to_streaming(keras.Model(x, layers.Conv1D(2, 3, padding="causal", name="heard")(x)))
    with pytest.raises(ArgumentError, match="streaming"):
        to_tflite({"one": streaming})
    lite = to_tflite(streaming, **PLAIN)
    parts = split_signatures(join_signatures({"one": lite.content, "two": lite.content}))
    sound = np.random.default_rng(0).normal(size=(1, 9, 4)).astype("float32")
    assert np.allclose(StreamingFile(parts["two"]).run(sound), StreamingFile(lite).run(sound), atol=1e-6)


def test_what_falls_short_is_named_with_the_file(heads):
    with pytest.raises(VerificationError, match=r"^size: ") as caught:
        to_tflite(heads, {"kind": "float32", "size": Recipe("dynamic", require={"sqnr_db": 90})}, **PLAIN)
    assert caught.value.model.predict("kind", X[:2]).shape == (2, 5)


@pytest.mark.parametrize(
    "names, recipe, fields, error, said",
    [
        ((), None, {}, ArgumentError, "empty dict"),
        (("a/b",), None, {}, ArgumentError, "without '/'"),
        (("kind", 3), None, {}, ArgumentError, "3"),
        (("kind", "size"), {"kind": "int8"}, {}, RecipeError, "no recipe for the function 'size'"),
        (("kind", "size"), {"kind": "int8", "siez": "int8"}, {}, RecipeError, "siez"),
        (("kind", "size"), "int8", {"calibration": {"kind": X}}, RecipeError, "'size'.*calibration data"),
        (("kind", "size"), "int8", {"calibration": {"kind": X, "siez": X}}, RecipeError, "siez"),
        (("kind", "size"), None, {"layers": {"kind": "dynamic"}}, RecipeError, "'size'.*matches no layer.*by function"),
        (("kind",), "int8", {"calibration": X[:, :3]}, DataError, "'kind'"),
    ],
)
def test_what_does_not_fit_is_named(heads, names, recipe, fields, error, said):
    models = dict(zip(names, heads.values(), strict=False))
    with pytest.raises(error, match=said):
        to_tflite(models, recipe, **fields, **PLAIN)


def test_variables_are_not_joined(floats):
    content = floats.functions["kind"].content
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    handle = flatbuffer.add_tensor(graph, [1], b"handle", flatbuffer.schema.TensorType.RESOURCE)
    options = flatbuffer.schema.VarHandleOptionsT()
    kind = flatbuffer.schema.BuiltinOptions.VarHandleOptions
    graph.operators.append(flatbuffer.new_operator(model, "VAR_HANDLE", [], [handle], kind, options))
    with pytest.raises(ConversionError, match=r"variables or tables .handle"):
        join_signatures({"one": content, "two": flatbuffer.write(model)})


def test_a_function_that_is_not_the_first_graph(floats):
    """Runtimes run the first graph, whatever the signature names."""
    model = flatbuffer.read(floats.content)
    model.signatureDefs = [one for one in model.signatureDefs if one.signatureKey == b"size"]
    content = flatbuffer.write(model)
    with pytest.raises(ConversionError, match="not its first graph"):
        Runtime(content)
    (part,) = split_signatures(content).values()
    assert np.allclose(Runtime(part).run_all({"image": X[:2]})["size"], floats.predict("size", X[:2]), atol=1e-5)
    # Two names of one graph are one function.
    model = flatbuffer.read(floats.functions["kind"].content)
    (first,) = model.signatureDefs
    twin = dataclasses.replace(first) if dataclasses.is_dataclass(first) else type(first)()
    twin.__dict__.update(vars(first))
    twin.signatureKey = b"again"
    model.signatureDefs.append(twin)
    assert len(function_graphs(flatbuffer.write(model))) == 1
    assert Runtime(flatbuffer.write(model)).outputs[0].name == "kind"


def test_the_file_is_held_against_its_parts(monkeypatch, heads):
    real = signatures.join_signatures

    def wrong(files):
        names = list(files)
        return real({names[0]: files[names[1]], names[1]: files[names[0]]})

    model = heads["kind"]
    other = keras.models.clone_model(model)
    monkeypatch.setattr(signatures, "join_signatures", wrong)
    with pytest.raises(ConversionError, match="gives another 'kind'"):
        to_tflite({"one": model, "two": other}, **PLAIN)


def test_the_command_makes_and_shows_functions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    encoder, decoder = _halves()
    encoder.save("encoder.keras"), decoder.save("decoder.keras")
    np.savez("x.npz", image=X / 255)
    np.savez("codes.npz", code=np.asarray(encoder(X / 255)))
    models = ["--signature", "encode=encoder.keras", "--signature", "decode=decoder.keras", "-o", "both.tflite"]
    data = ["--calibration", "encode=x.npz", "--calibration", "decode=codes.npz"]
    assert cli.main([*models, *data, "--no-latency", "--labels-file", "none.txt"]) == 2
    assert cli.main([*models, *data, "--no-latency", "--author", "me", "--report", "r.json"]) == 0
    assert "2 functions in a file" in capsys.readouterr().out
    assert read_metadata("both.tflite").author == "me" and describe("both.tflite").functions == ("encode", "decode")
    assert commands.main(["verify", "both.tflite", "encoder.keras", "x.npz"]) == 2
    assert "--function encode" in capsys.readouterr().err
    assert commands.main(["verify", "--function", "encode", "both.tflite", "encoder.keras", "x.npz"]) == 0
    assert commands.main(["inspect", "both.tflite"]) == 0 and "encode, decode" in capsys.readouterr().out
    for more, said in (
        (["--c-array"], "--c-array is for one model"),
        (["--target", "micro"], "micro runs one function a file"),
        (["--verify", "encoder=x.npz"], "of encode, decode"),
    ):
        assert cli.main([*models, *data, *more, "--overwrite"]) == 2
        assert said in capsys.readouterr().err
    # Options in a file, as tables.
    (tmp_path / "job.toml").write_text(
        '[convert]\nno-latency = true\noutput = "both.tflite"\nprecision = "int8"\n'
        '[convert.signature]\nencode = "encoder.keras"\ndecode = "decoder.keras"\n'
        '[convert.calibration]\nencode = "x.npz"\ndecode = "codes.npz"\n'
    )
    assert commands.main(["convert", "--config", "job.toml", "--overwrite"]) == 0
