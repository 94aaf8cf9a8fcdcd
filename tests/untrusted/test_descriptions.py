"""Descriptions of models that would run code or read files are refused as data; nothing of them is built."""

import json
import os
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tf_keras

from tfstruct import legacy
from tfstruct.errors import ModelError
from tfstruct.untrusted.descriptions import refuse_code


@keras.saving.register_keras_serializable("test_untrusted")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@tf_keras.saving.register_keras_serializable("test_untrusted")
def registered_in_keras_2(x):
    return x


def leave_a_mark(*arguments):
    import os

    os.mkdir(os.environ["TFSTRUCT_TEST_MARK"])
    return arguments[-1]


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """The folder that code of a hostile file makes."""
    monkeypatch.setenv("TFSTRUCT_TEST_MARK", str(tmp_path / "ran"))
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


def code() -> str:
    from tf_keras.src.utils import generic_utils

    return generic_utils.func_dump(leave_a_mark)[0]


def function(module: str, name: str, **others) -> dict:
    return {"class_name": "function", "config": name, "module": module, "registered_name": None, **others}


def layer(kind: str, **config) -> dict:
    return {"class_name": kind, "config": {"name": "bad", **config}}


def wrapped(kind: str, argument: str) -> dict:
    """A cell with marshalled code as one of its functions."""
    cell = layer("SimpleRNNCell", units=4)
    how = {argument: [code(), None, None], f"{argument}_type": "lambda", f"{argument}_module": "os"}
    return layer(kind, cell=cell, **how)


def keras2_model(bad: dict) -> dict:
    """A functional model of Keras 2 from one sequence to one layer."""
    source = layer("InputLayer", batch_input_shape=[None, 3, 4], dtype="float32", sparse=False, ragged=False)
    source["config"]["name"] = "x"
    layers = [
        {**source, "name": "x", "inbound_nodes": []},
        {**bad, "name": "bad", "inbound_nodes": [[["x", 0, 0, {}]]]},
    ]
    return {
        "class_name": "Functional",
        "config": {"name": "m", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["bad", 0, 0]]},
    }


def keras2_file(path, bad: dict):
    """An .h5 or a .keras file that says Keras 2 wrote it."""
    text = json.dumps(keras2_model(bad))
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.attrs["model_config"], file.attrs["keras_version"], file.attrs["backend"] = text, "2.15.0", "tensorflow"
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"], weights.attrs["backend"], weights.attrs["keras_version"] = [], "tensorflow", "2"
    if path.suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", text)
            archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
            archive.writestr("model.weights.h5", path.with_suffix(".h5").read_bytes())
    return path


# With the code that was found to run, and what else tf_keras makes of a description.
HOSTILE_KERAS2 = {
    "residual": lambda: layer("RNN", cell=wrapped("ResidualWrapper", "residual_fn")),
    "dropout": lambda: layer("RNN", cell=wrapped("DropoutWrapper", "dropout_fn")),
    "stacked": lambda: layer("RNN", cell=layer("StackedRNNCells", cells=[wrapped("ResidualWrapper", "residual_fn")])),
    "bidirectional": lambda: layer(
        "Bidirectional", layer=layer("RNN", cell=wrapped("ResidualWrapper", "residual_fn")), merge_mode="concat"
    ),
    "lambda": lambda: layer("Lambda", function=[code(), None, None], function_type="lambda"),
    "marshalled": lambda: layer("Dense", units=2, activation={"class_name": "__lambda__", "config": {"value": code()}}),
    "os-through-tf_keras": lambda: layer(
        "TextVectorization", standardize=function("tf_keras.src.utils.data_utils", "os.system")
    ),
    "os-through-keras": lambda: layer("TextVectorization", split=function("keras.src.utils.data_utils", "os.system")),
    "builtins": lambda: layer("Dense", units=2, activation=function("builtins", "eval")),
    "os-by-registered-name": lambda: layer(
        "Dense", units=2, activation=function("keras.src.utils.data_utils", "x", registered_name="os")
    ),
    "function-as-class": lambda: layer(
        "Dense", units=2, kernel_regularizer={"class_name": "deserialize_keras_object", "config": {"config": {}}}
    ),
    "name-of-a-function": lambda: layer("Dense", units=2, activation="deserialize"),
    "type": lambda: layer(
        "Dense",
        units=2,
        type_spec={
            "class_name": "__typespec__",
            "spec_name": "Popen",
            "module": "subprocess",
            "registered_name": None,
            "config": ["true"],
        },
    ),
    "tensorflow-function": lambda: layer("TFOpLambda", function="io.write_file"),
    "class-method": lambda: layer("ClassMethod", cls_ref="tensorflow.io.gfile.GFile", method_name="write"),
}
FILES = {
    "StringLookup": {"vocabulary": "/etc/passwd"},
    "IntegerLookup": {"vocabulary": "/etc/passwd"},
    "TextVectorization": {"vocabulary": "/etc/passwd"},
    "CategoryEncoding": {"idf_weights": "/etc/passwd"},
    "TFSMLayer": {"filepath": "/tmp/elsewhere"},
    "GraphLayer": {"filepath": "/tmp/elsewhere"},
}


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("bad", HOSTILE_KERAS2.values(), ids=HOSTILE_KERAS2)
def test_code_of_keras_2_is_refused(bad, suffix, tmp_path, mark):
    path = keras2_file(tmp_path / f"evil{suffix}", bad())
    with pytest.raises(ModelError, match=rf"evil\{suffix} .*(--trust|--import|tf_keras)"):
        legacy.load(path)


def test_the_code_was_real(tmp_path, monkeypatch):
    monkeypatch.setenv("TFSTRUCT_TEST_MARK", str(tmp_path / "ran"))
    path = keras2_file(tmp_path / "evil.h5", HOSTILE_KERAS2["residual"]())
    with pytest.raises(ModelError):  # Keras 3 has no such wrapper
        legacy.load(path, trust=True)
    assert os.path.exists(tmp_path / "ran")


@pytest.mark.parametrize("keras2", [False, True])
@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("kind", FILES)
def test_files_that_a_description_names_are_not_read(kind, depth, keras2):
    config = layer(kind, **FILES[kind])
    for _ in range(depth):
        config = layer("TimeDistributed", layer=[config])
    with pytest.raises(ModelError, match=r"evil\.keras .*'bad'.*(/etc/passwd|/tmp/elsewhere).*--trust"):
        refuse_code(config, "evil.keras", keras2=keras2)


def test_what_only_keras_3_knows_is_kept_from_keras_2():
    bad = {**layer("system"), "module": "os", "registered_name": "test_untrusted>Doubled"}
    refuse_code(bad, "file")  # a Doubled
    with pytest.raises(ModelError, match=r"custom class os\.system, which is not registered"):
        refuse_code(bad, "file", keras2=True)


def test_a_vocabulary_in_the_file_is_fine():
    for keras2 in (False, True):
        refuse_code(layer("StringLookup", vocabulary=["a", "b"]), "file", keras2=keras2)


HOSTILE_KERAS3 = {
    "os": {"class_name": "system", "config": {}, "module": "os", "registered_name": None},
    "module-of-keras": {
        "class_name": "get_file",
        "config": {"origin": "http://127.0.0.1"},
        "module": "keras.utils",
        "registered_name": None,
    },
    "function-of-keras": function("keras.saving", "load_model"),
    "torch": layer("TorchModuleWrapper", module={"class_name": "__bytes__", "config": {"value": ""}}),
    "jax": layer("JaxLayer", call_fn="os.system"),
    "bare-behind-a-registered-name": {
        "class_name": "JaxLayer",
        "config": {},
        "module": "keras.layers",
        "registered_name": "test_untrusted>Doubled",
    },
}


@pytest.mark.parametrize("bad", HOSTILE_KERAS3.values(), ids=HOSTILE_KERAS3)
def test_code_of_keras_3_is_refused(bad, tmp_path):
    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2, name="head")])
    model.save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as source, zipfile.ZipFile(tmp_path / "evil.keras", "w") as target:
        config = json.loads(source.read("config.json"))
        config["config"]["layers"][1]["config"]["kernel_initializer"] = bad
        target.writestr("config.json", json.dumps(config))
        for name in ("metadata.json", "model.weights.h5"):
            target.writestr(name, source.read(name))
    with pytest.raises(ModelError, match=r"evil\.keras .*(--trust|--import)"):
        legacy.load(tmp_path / "evil.keras")


def test_what_the_user_registered_needs_no_trust():
    for package, keras2 in ((keras, False), (tf_keras, True)):
        with package.saving.custom_object_scope({"own": leave_a_mark, "Own": Doubled}):
            refuse_code(layer("Own"), "file", keras2=keras2)
            refuse_code(function("__main__", "own"), "file", keras2=keras2)
        with pytest.raises(ModelError, match="custom class: 'Own' is not registered"):
            refuse_code(layer("Own"), "file", keras2=keras2)


def test_a_custom_loss_is_no_reason_to_refuse(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", loss=lambda y, z: keras.ops.mean(y - z))
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(legacy.load(tmp_path / "m.keras").get_weights()[0], model.get_weights()[0])
