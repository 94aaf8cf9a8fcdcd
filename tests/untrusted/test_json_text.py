"""What the JSON of a recipe, plan, scheme or latency table makes us raise is one documented error."""

import copy
import json

import numpy as np
import pytest

from tfstruct import Plan, Recipe
from tfstruct.convert import LatencyTable
from tfstruct.errors import DataError, PlanError, RecipeError, TfstructError
from tfstruct.quantize import Scheme
from tfstruct.samples import Preprocess
from tfstruct.samples.preprocess import _import_function
from tfstruct.untrusted import json_text

ROW = {"operator": "CONV_2D", "shapes": [[1, 4, 4, 3], [8, 3, 3, 3], [1, 4, 4, 8]], "microseconds": 5.0}
PLAN = {
    "format": 1,
    "model": "m",
    "keep": {"a": [0, 2]},
    "widths": {"a": 4},
    "before": {"macs": 9},
    "after": {"macs": 4},
}
READERS = {
    "recipe": (Recipe.from_json, RecipeError, Recipe(precision="int8", preprocess=Preprocess(scale=0.5)).to_json()),
    "plan": (Plan.from_json, PlanError, json.dumps(PLAN)),
    "scheme": (Scheme.from_json, RecipeError, Scheme("int8", layers={"head": "int4"}).to_json()),
    "latency": (LatencyTable.from_json, DataError, json.dumps({"processor": "p", "rows": [{**ROW, "macs": 3}]})),
    "benchmark": (LatencyTable.from_json, DataError, json.dumps({"latency": {"median_ms": 2.0}, "model": "m"})),
}
TEXTS = [
    "",
    "{",
    "[]",
    "7",
    "null",
    '"x"',
    "[" * 100_000,
    '{"a":' * 100_000,
    "\ud800",
    "{}" * 2,
    '{"k": [' + "[]," * 600_000,
]
VALUES = [
    None,
    True,
    -1,
    1e400,
    float("nan"),
    "x",
    "",
    [],
    [[1], [1, 2]],
    [None],
    {},
    {"a": [1]},
    10**400,
    [-3],
    [0.5],
    "two\nlines",
    ["two\nlines"],
    {"two\nlines": "two\nlines"},
]


@pytest.mark.parametrize("name", READERS)
def test_texts_that_are_none(name):
    read, error, _ = READERS[name]
    for text in TEXTS:
        with pytest.raises(error, match=r"must be JSON|must be a JSON object") as caught:
            read(text)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def places(data, path=()):
    """The paths to all values of a JSON object."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@pytest.mark.parametrize("name", READERS)
def test_values_of_another_kind(name):
    read, error, text = READERS[name]
    good = json.loads(text)
    read(text)
    refused = 0
    for place in places(good):
        for value in VALUES:
            data = copy.deepcopy(good)
            inner = data
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
            try:
                made = read(json.dumps(data))
                str(made)
                if name == "plan":
                    _ = made.removed, made.edited, made.to_json()
            except TfstructError as raised:
                assert isinstance(raised, error | DataError) and "\n" not in str(raised)
                refused += 1
    assert refused > 5


@pytest.mark.parametrize(
    "keep", [{"a": [[0], [1, 2]]}, {"a": [0, "x"]}, {"a": 3}, {"a": [-1]}, {"a": [0.5]}, {"a": [True]}]
)
def test_indices_of_a_plan(keep):
    with pytest.raises(PlanError, match="`keep` of a plan must map names to lists of indices"):
        Plan.from_json(json.dumps({**PLAN, "keep": keep}))


def test_a_plan_with_numpy_indices():
    assert Plan.from_dict({**PLAN, "keep": {"a": np.array([0, 2])}, "before": {"macs": np.int64(9)}}).removed == {
        "a": 2
    }


def test_a_file_is_named(tmp_path):
    path = tmp_path / "plan.json"
    for content in (b"\xff\xfe\x00", b"[]", b'{"format": 1, "model": "m", "keep": {"a": [[]]}, "widths": {}}'):
        path.write_bytes(content)
        with pytest.raises(PlanError, match=r"plan\.json is not a plan of channels, which must be|`keep` of a plan"):
            Plan.load(path)


def test_a_latency_table_is_named(tmp_path):
    path = tmp_path / "table.json"
    for content in (b"\xff\xfe\x00", b"[]", b"{"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"table\.json is not a latency table"):
            LatencyTable.read(path)


def test_a_recipe_imports_nothing_without_the_users_word(tmp_path, monkeypatch):
    mark = tmp_path / "ran"
    (tmp_path / "evil_step.py").write_text(f"open({str(mark)!r}, 'w')\n\ndef f(x):\n    return x\n")
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(precision="int8", preprocess=Preprocess(function="evil_step:f"))
    text = recipe.to_json()
    found = Recipe.from_json(text)
    assert found == recipe and found.to_json() == text
    for changed in (found, found.replace(precision="float32")):
        with pytest.raises(RecipeError, match=r"'evil_step:f', and would import that module.*trust=True"):
            _import_function(changed.preprocess.function)
    assert not mark.exists()
    assert _import_function(Recipe.from_json(text, trust=True).preprocess.function)(3) == 3
    assert mark.exists()


def test_a_file_is_named_by_every_error(tmp_path):
    path = tmp_path / "odd.json"

    def build(data):
        if "raw" in data:
            raise KeyError("x")
        raise RecipeError("No such step.")

    for text, kind, says in (
        (b"[1", dict, "must be JSON"),
        (b"[1]", dict, "must be a JSON object"),
        (b"{}", list, "must be a JSON list"),
        (b'{"raw": 1}', dict, "values of the documented kinds"),
        (b"{}", dict, "No such step"),
        (b"[" * 100_000, dict, "nests too deep"),
    ):
        path.write_bytes(text)
        with pytest.raises(DataError if "step" not in says else TfstructError, match=rf"odd\.json.*{says}"):
            json_text.read_file(path, build, DataError, kind=kind)
    with pytest.raises(DataError, match=r"There is no file .*none\.json"):
        json_text.read_file(tmp_path / "none.json", build, DataError)
    with pytest.raises(DataError, match="cannot be read"):
        json_text.read_file(tmp_path, build, DataError)
