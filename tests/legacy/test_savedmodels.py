"""SavedModels of every kind: which signature runs, and what is said where the graph runs instead of Keras layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfstruct
from tfstruct import cli, legacy
from tfstruct.convert import split_signatures, to_tflite
from tfstruct.convert.runtime import FunctionRuntime
from tfstruct.errors import ModelError

rng = np.random.default_rng(0)
W = rng.normal(size=(4, 3)).astype("float32")
X = rng.normal(size=(120, 4)).astype("float32")


class Coder(tf.Module):
    """Its methods have the names of signatures, and one of them takes something else than the signature does."""

    def __init__(self):
        super().__init__()
        self.w = tf.Variable(W)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def encode(self, x):
        return {"code": tf.nn.relu(x @ self.w)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="z")])
    def decode(self, z):
        return tf.matmul(z, self.w, transpose_b=True)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="left"), tf.TensorSpec([None, 4], name="right")])
    def compare(self, left, right):
        return {"sum": (left + right) @ self.w, "difference": (left - right) @ self.w}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """By kind, a SavedModel whose function `encode` is `relu(x W)`."""
    root = tmp_path_factory.mktemp("saved")
    coder = Coder()
    tf.saved_model.save(coder, str(root / "several"), {n: getattr(coder, n) for n in ("encode", "decode", "compare")})
    tf.saved_model.save(coder, str(root / "swapped"), {"encode": coder.decode, "serving_default": coder.encode})
    tf.saved_model.save(coder, str(root / "one"), {"encode": coder.encode})
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu", use_bias=False)])
    dense.set_weights([W])
    dense.export(root / "keras3", verbose=False)
    archive = keras.export.ExportArchive()
    archive.track(dense)
    archive.add_endpoint("encode", dense.call, input_signature=[tf.TensorSpec((None, 4))])
    archive.add_endpoint("twice", lambda x: 2 * dense.call(x), input_signature=[tf.TensorSpec((None, 4))])
    archive.write_out(root / "archive", verbose=False)
    return root


class Scale(tf_keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight("factor", (shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.factor


def keras2(kind: str):
    x = tf_keras.Input((4,), name="x")
    if kind == "subclassed":
        model = type("Own", (tf_keras.Model,), {"call": lambda self, x: self.dense(x)})()
        model.dense = tf_keras.layers.Dense(3)
        model.predict(X[:1], verbose=0)
        return model
    middle = {"layer": Scale(name="scale"), "function": tf.sort}[kind]
    return tf_keras.Model(x, tf_keras.layers.Dense(3, name="head")(middle(tf_keras.layers.Dense(5)(x))))


def test_signatures_without_a_default_are_listed(folders):
    with pytest.raises(ModelError, match=r"signatures 'compare', 'decode', 'encode'.*Choose one.*--signature compare"):
        legacy.load(folders / "several")
    with pytest.raises(ModelError, match=r"no signature 'nope'. It has: 'compare', 'decode', 'encode'"):
        legacy.load(folders / "several", signature="nope")
    with pytest.raises(ModelError, match="Only a SavedModel folder has signatures"):
        legacy.load(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), signature="encode")


@pytest.mark.parametrize("kind, signature", [
    ("several", "encode"), ("swapped", None), ("one", None), ("keras3", None), ("archive", "encode"), ("archive", None),
])  # fmt: skip
def test_the_signature_that_is_meant_runs(folders, kind, signature):
    (found,) = legacy.load(folders / kind, signature=signature)(X).values()
    np.testing.assert_allclose(found, np.maximum(X @ W, 0), atol=1e-5)


def test_an_array_goes_into_a_graph_of_one_input_without_a_warning(folders, recwarn):
    model = legacy.load(folders / "several", signature="encode")
    (found,) = model.predict(X, verbose=0).values()
    np.testing.assert_allclose(found, np.maximum(X @ W, 0), atol=1e-5)
    assert not [w for w in recwarn if "structure" in str(w.message)]


def test_a_signature_is_no_attribute_of_the_same_name(folders):
    z = X[:, :3]
    (found,) = legacy.load(folders / "swapped", signature="encode")(z).values()
    np.testing.assert_allclose(found, z @ W.T, atol=1e-5)


def test_inputs_and_outputs_have_the_signature_s_names(folders):
    model = legacy.load(folders / "several", signature="compare")
    made = to_tflite(model, "int8", calibration={"left": X, "right": X[::-1].copy()})
    found = made.predict({"left": X[:4], "right": X[4:8]})
    assert set(found) == {"sum", "difference"}
    np.testing.assert_allclose(found["difference"], (X[:4] - X[4:8]) @ W, atol=0.2)
    assert tfstruct.profile(model).unknown == ("graph",)  # its sizes are known, its work is not


def test_the_command_chooses(folders, tmp_path, capsys):
    out = str(tmp_path / "out.tflite")
    assert cli.main([str(folders / "several"), "-o", out]) == cli.BAD_INPUT
    assert "Choose one" in capsys.readouterr().err
    assert cli.main([str(folders / "several"), "-o", out, "--signature", "encode", "--quiet"]) == cli.FINE
    assert capsys.readouterr().err == ""


def test_the_command_makes_one_file_of_several_signatures(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = str(folders / "several")
    np.savez("x.npz", x=X)
    np.savez("pairs.npz", left=X, right=X[::-1])
    both = [model, "-o", "both.tflite", "--signature", "encode,compare", "--no-latency", "--precision", "int8"]
    assert cli.main([*both, "--calibration", "encode=x.npz"]) == cli.BAD_INPUT
    assert "ranges of the activations of compare: --calibration compare=DATA" in capsys.readouterr().err
    data = ["--calibration", "encode=x.npz", "--calibration", "compare=pairs.npz"]
    assert cli.main([*both, *data, "--quiet"]) == cli.FINE
    parts = split_signatures("both.tflite")
    assert list(parts) == ["encode", "compare"]
    encoded = FunctionRuntime((tmp_path / "both.tflite").read_bytes(), "encode").run({"x": X[:1]})
    np.testing.assert_allclose(encoded["code"], np.maximum(X[:1] @ W, 0), atol=0.2)
    # Given twice, as two options, in float.
    again = [model, "-o", "again.tflite", "--signature", "encode", "--signature", "decode", "--no-latency", "--quiet"]
    assert cli.main(again) == cli.FINE and list(split_signatures("again.tflite")) == ["encode", "decode"]
    for names, said in (("encode,dcode", "no signature 'dcode'"), ("encode,encode", "names encode twice")):
        assert cli.main([model, "-o", "bad.tflite", "--signature", names, "--quiet"]) == cli.BAD_INPUT
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
        assert not (tmp_path / "bad.tflite").exists()


@pytest.mark.parametrize("kind", ["layer", "function", "subclassed"])
def test_keras_2_without_counterparts_runs_as_a_graph(kind, tmp_path):
    source = keras2(kind)
    wanted = source(X).numpy()
    source.save(tmp_path / "old")
    with pytest.warns(UserWarning, match=r"cannot be rebuilt of Keras layers .*'serving_default'.*Lost are its layers"):
        source = legacy.read(tmp_path / "old")
    (found,) = source.model(X).values()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert "'serving_default' as it is" in source.explain()


def test_a_class_that_is_registered_is_taken_in_a_savedmodel(tmp_path):
    source = keras2("layer")
    source.get_layer("scale").factor.assign([1.0, 2.0, 3.0, 4.0, 5.0])
    source.save(tmp_path / "old")
    with pytest.warns(UserWarning, match=r"'scale' is a Scale, .*no class is registered by that name"):
        assert [layer.name for layer in legacy.load(tmp_path / "old").layers] == ["x", "graph"]

    class Ours(keras.layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), name="factor")

        def call(self, x):
            return x * self.factor

    with keras.saving.custom_object_scope({"Scale": Ours}):
        found = legacy.load(tmp_path / "old")
    assert isinstance(found.get_layer("scale"), Ours)
    np.testing.assert_allclose(found(X), source(X), atol=1e-5)


def test_a_lambda_is_not_run_to_run_its_graph(tmp_path):
    x = tf_keras.Input((4,))
    tf_keras.Model(x, tf_keras.layers.Lambda(lambda x: x * 2.0, name="double")(x)).save(tmp_path / "old")
    with pytest.raises(ModelError, match=r"'double', which runs code.*signature='serving_default'"):
        legacy.load(tmp_path / "old")
    (found,) = legacy.load(tmp_path / "old", signature="serving_default")(X).values()
    np.testing.assert_allclose(found, 2 * X)


def test_another_signature_does_not_hide_what_reaches_out(tmp_path):
    module = tf.Module()
    spec = [tf.TensorSpec([None, 4], name="x")]
    fine = tf.function(lambda x: {"y": x}, input_signature=spec)
    bad = tf.function(lambda x: {"y": x, "n": tf.io.read_file("/etc/passwd")}, input_signature=spec)
    tf.saved_model.save(module, str(tmp_path / "bad"), {"fine": fine, "bad": bad})
    with pytest.raises(ModelError, match="reach outside the model: ReadFile"):
        legacy.load(tmp_path / "bad", signature="fine")


@pytest.mark.parametrize("shape, said", [([], "has no axis"), (None, "an unknown number of axes")])
def test_inputs_that_are_no_batch(shape, said, tmp_path):
    module = tf.Module()
    function = tf.function(lambda x: {"y": x + 1.0}, input_signature=[tf.TensorSpec(shape, name="x")])
    tf.saved_model.save(module, str(tmp_path / "odd"), signatures=function)
    with pytest.raises(ModelError, match=rf"The input 'x' .*{said}"):
        legacy.load(tmp_path / "odd")
