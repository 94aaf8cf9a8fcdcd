"""Files that this and earlier versions wrote load, and give what they gave then."""

import importlib.util
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from packaging.version import Version

import tfstruct
from tfstruct import convert
from tfstruct.compression import CompressionReport
from tfstruct.quantize import Scheme

HERE = pathlib.Path(__file__).parent
VERSIONS = sorted(folder.name for folder in (HERE / "data").iterdir() if folder.is_dir())


def _maker():
    spec = importlib.util.spec_from_file_location("keep_files", HERE.parent / "tools" / "keep_files.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = _maker()


@pytest.fixture(params=VERSIONS)
def folder(request):
    return HERE / "data" / request.param


@pytest.fixture
def models(folder):
    """The folder, for tests that read its models, which no Keras older than the one that wrote them can."""
    wrote = json.loads((folder / "expected.json").read_text())["keras"]
    if Version(keras.__version__) < Version(wrote):
        pytest.skip(f"the models are of Keras {wrote}")
    return folder


@pytest.fixture
def expected(folder):
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


def close(got, wanted) -> None:
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_this_version_has_kept_its_files():
    assert tfstruct.__version__ in VERSIONS


def test_they_are_small(folder):
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 1 << 20


def test_models(models, expected):
    for name in ("plain", "twin"):
        close(tfstruct.legacy.load(models / f"{name}.keras").predict(expected["x"], verbose=0), expected[name])


@pytest.mark.parametrize("name", MAKER.COMPRESSORS)
def test_training_goes_on_from_a_file_with_a_state(models, expected, name):
    model = keras.models.load_model(models / f"{name}.keras")
    close(model.predict(expected["x"], verbose=0), expected[name])
    one = MAKER.COMPRESSORS[name]()
    model.fit(
        *MAKER.data(), batch_size=4, epochs=2, initial_epoch=1, shuffle=False, verbose=0, callbacks=[one]
    )  # fmt: skip
    assert one.steps == 16 and one.report is not None


def test_a_plan(models, expected):
    plan = tfstruct.Plan.load(models / "plan.json")
    assert not plan.edited
    model = keras.models.load_model(models / "plain.keras")
    close(tfstruct.apply(model, plan).predict(expected["x"], verbose=0), expected["smaller"])


def test_recipes_and_schemes(folder):
    recipe = tfstruct.Recipe.from_json((folder / "recipe.json").read_text())
    assert recipe.precision == "int8" and dict(recipe.layers) == {"scores": "float32"}
    assert recipe.preprocess.scale == 0.5 and dict(recipe.require) == {"sqnr_db": 10.0}
    assert tuple(recipe.ranges["x"]) == (-4.0, 4.0)
    scheme = Scheme.from_json((folder / "scheme.json").read_text())
    assert scheme.precision_of("scores") == "int4" and scheme.precision_of("hidden") == "int8"
    assert scheme.steps == "learned"


def test_tflite_files_and_what_they_say_of_themselves(folder):
    about = convert.read_metadata(folder / "int8.tflite")
    assert about.license == "MIT" and about.labels == {"scores": ("a", "b", "c")}
    assert [one.operator for one in convert.describe(folder / "int8.tflite").operators].count("FULLY_CONNECTED") == 2


def test_packed_models(models, expected):
    assert tfstruct.unpack(models / "tflite.tfpack") == (models / "int8.tflite").read_bytes()
    close(tfstruct.unpack(models / "keras.tfpack").predict(expected["x"], verbose=0), expected["plain"])


def test_latency_tables(folder):
    (row,) = convert.LatencyTable.read(folder / "latency.json").rows
    assert (row.operator, row.microseconds, row.processor) == ("FULLY_CONNECTED", 2.5, "m4")


def test_reports_of_compressions(folder):
    report = CompressionReport.from_json((folder / "report.json").read_text())
    facts = json.loads((folder / "expected.json").read_text())
    assert report.result.quality == facts["quality"] and str(report)


def test_a_working_folder_is_taken_up(models, expected, tmp_path, monkeypatch):
    shutil.copytree(models / "compress", tmp_path / "work")
    monkeypatch.setattr(keras.Model, "fit", lambda *args, **kwargs: pytest.fail("it was trained again"))
    made = MAKER.compress(keras.models.load_model(models / "plain.keras"), tmp_path / "work")
    close(made.model.predict(expected["x"], verbose=0), expected["compressed"])
    facts = json.loads((models / "expected.json").read_text())
    assert made.report.result.quality == facts["quality"]
