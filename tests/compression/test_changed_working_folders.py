"""A working folder that was changed from outside: refused by name, without code and without another file touched."""

import hashlib
import json
import sqlite3
import zipfile

import keras
import numpy as np
import pytest

from tfstruct.analyze import sensitivity
from tfstruct.compression import steps, training
from tfstruct.compression.candidate import Candidate
from tfstruct.compression.execution import _stage_and_scheme
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.search.record import Record
from tfstruct.compression.search.trial import Trial
from tfstruct.distill import cached
from tfstruct.errors import DataError, ModelError, RecipeError


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2, name="head")], name="m")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "must be JSON"),
        (b"[" * 100_000, "nests too deep"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "must be JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"stage": 3, "scheme": null}', "documented kinds"),
        (b'{"stage": {"step": {"kind": "os.system"}}, "scheme": null}', "A step must be one of"),
        (b'{"stage": {}, "scheme": {"precision": "int7"}}', "int7"),
    ],
)
def test_descriptions(content, says, tmp_path):
    folder = WorkingFolder(tmp_path)
    (tmp_path / "stage.json").write_bytes(content)
    with pytest.raises(RecipeError, match=rf"stage\.json.*{says}.*Remove the working folder"):
        folder.read("stage.json", _stage_and_scheme)
    assert folder.read("none.json", _stage_and_scheme) is None


def test_figures_of_other_kinds(tmp_path):
    right = {
        "name": "a", "metric": "accuracy", "quality": 0.5, "params": 3, "tflite_bytes": 5, "gzip_bytes": 4
    }  # fmt: skip
    folder = WorkingFolder(tmp_path)
    for name, value in (("quality", "high"), ("params", [3]), ("tflite_bytes", None), ("macs", "3"), ("scores", 3)):
        (tmp_path / "plain.json").write_text(json.dumps([{**right, name: value}]))
        with pytest.raises(RecipeError, match=r"plain\.json"):
            folder.read("plain.json", lambda both: [str(Candidate.from_dict(one)) for one in both], list)


def test_a_file_that_is_another_than_was_written(tmp_path):
    folder = WorkingFolder(tmp_path)
    (tmp_path / "plain.tflite").write_bytes(b"the file")
    known = hashlib.sha256(b"the file").hexdigest()
    assert folder.content("plain.tflite", known) == folder.content("plain.tflite") == b"the file"
    (tmp_path / "plain.tflite").write_bytes(b"a file!!")
    with pytest.raises(RecipeError, match=r"plain\.tflite is not what was written.*Remove the working folder"):
        folder.content("plain.tflite", known)
    (tmp_path / "plain.tflite").unlink()
    with pytest.raises(RecipeError, match=r"plain\.tflite cannot be read"):
        folder.content("plain.tflite", known)


TRIAL = Trial(0, (steps.Quantize(),), 1, 100, "search-12ab/trial-0000")


@pytest.mark.parametrize(
    "change",
    [
        {"folder": "../outside"}, {"folder": "/tmp/outside"}, {"folder": "search-12ab/trial-0000/../../.."},
        {"folder": None}, {"number": "0"}, {"seed": -1}, {"generation": None}, {"steps": [{"kind": "os.system"}]},
        {"candidate": 3},
    ],
)  # fmt: skip
def test_trials_of_a_record(change, tmp_path):
    pytest.importorskip("optuna")
    assert Trial.from_dict(TRIAL.to_dict()) == TRIAL
    record = Record(f"sqlite:///{tmp_path / 'search.db'}", "search-12ab", ("quality", "macs"), True)
    record.add(TRIAL, {}, {})
    assert record.trials() == record.waiting() == (TRIAL,)
    with sqlite3.connect(tmp_path / "search.db") as base:
        value = json.dumps({**TRIAL.to_dict(), **change})
        base.execute("update trial_user_attributes set value_json = ? where key = 'trial'", (value,))
    record = Record(f"sqlite:///{tmp_path / 'search.db'}", "search-12ab", ("quality", "macs"), True)
    with pytest.raises(RecipeError, match=r"search\.db cannot be used: .*Remove it and start again"):
        record.waiting()


def test_a_damaged_record(tmp_path):
    pytest.importorskip("optuna")
    Record(f"sqlite:///{tmp_path / 'search.db'}", "one", ("quality", "macs"), True).add(TRIAL, {}, {})
    content = (tmp_path / "search.db").read_bytes()
    half, text = content[: len(content) // 2], content.replace(b'"steps"', b'"steps]')
    for damaged in (b"no database", half, text, content.replace(b"trial_user_attributes", b"trial_user_attribute_")):
        (tmp_path / "search.db").write_bytes(damaged)
        with pytest.raises(RecipeError, match=r"search\.db cannot be used") as caught:
            Record(f"sqlite:///{tmp_path / 'search.db'}", "one", ("quality", "macs"), True).trials()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "storage", ["no url", "postgresql://user:secret@127.0.0.1:1/x", "sqlite:////no/such/place/x.db"]
)
def test_a_database_that_cannot_be_reached(storage):
    pytest.importorskip("optuna")
    with pytest.raises(RecipeError, match=r"cannot be used: .*give another `storage`") as caught:
        Record(storage, "one", ("quality", "macs"), True)
    assert "secret" not in str(caught.value)


def test_models_are_judged(model, tmp_path):
    folder = WorkingFolder(tmp_path)
    folder.save("model", model)
    assert folder.load("model").name == "m"
    with zipfile.ZipFile(tmp_path / "model.keras") as source:
        members = {name: source.read(name) for name in source.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"][1]["config"]["kernel_initializer"] = {
        "class_name": "get_file", "config": {"origin": "http://127.0.0.1"}, "module": "keras.utils",
        "registered_name": None,
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        for name, content in {**members, "config.json": json.dumps(config).encode()}.items():
            archive.writestr(name, content)
    with pytest.raises(ModelError, match=r"model\.keras.*get_file"):
        folder.load("model")
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match=r"model\.keras"):
        folder.load("model")


@pytest.mark.parametrize("name", ["{outside}", "../outside.weights.h5", "epoch-1.weights.h5", "", None, 3])
def test_weights_lie_in_the_folder(name, model, tmp_path):
    outside = tmp_path / "outside.weights.h5"
    model.save_weights(outside)
    (tmp_path / "work").mkdir()
    name = str(outside) if name == "{outside}" else name
    (tmp_path / "work" / "training.json").write_text(json.dumps({"weights": name, "history": [{"loss": 1.0}]}))
    with pytest.raises(RecipeError, match=r"training\.json"):
        training._EpochState(tmp_path / "work")
    assert outside.exists()


def test_weights_that_are_damaged(model, tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({"weights": "epoch-0001.weights.h5", "history": [{}]}))
    for content in (None, b"", b"\x89HDF\r\n\x1a\n" + bytes(100)):
        if content is not None:
            (tmp_path / "epoch-0001.weights.h5").write_bytes(content)
        state = training._EpochState(tmp_path)
        state.set_model(model)
        with pytest.raises(RecipeError, match=r"epoch-0001\.weights\.h5 is damaged"):
            state.on_train_begin()


def test_files_of_sensitivity(model, tmp_path):
    x, y, path = np.zeros((8, 4), "float32"), np.arange(8) % 2, tmp_path / "sweep.json"
    x[:, 0] = np.arange(8)
    wide = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="wide"), keras.layers.Dense(2)])
    sensitivity(wide, x, y, loss="sparse_categorical_crossentropy", ratios=(0.5,), path=path, verbose=0)
    good = json.loads(path.read_text())
    for change in (
        {"groups": []}, {"groups": {"wide": 3}}, {"groups": {"wide": {"0.5": ["a", 1]}}}, {"baseline": None},
        {"groups": {"wide": {"0.5": [1.0]}}}, {"baseline": [1]},
    ):  # fmt: skip
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=r"sweep\.json is no file of sensitivity"):
            sensitivity(wide, x, y, loss="sparse_categorical_crossentropy", ratios=(0.5,), path=path, verbose=0)


def test_the_cache_of_a_teacher(model, tmp_path):
    x = np.zeros((8, 4), "float32")
    cached(model, x, tmp_path / "teacher")
    for content in (b"[", b"[1]", b"[" * 100_000):
        (tmp_path / "teacher.json").write_bytes(content)
        with pytest.raises(DataError, match=r"teacher\.json"):
            cached(model, x, tmp_path / "teacher")
