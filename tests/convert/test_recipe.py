"""A recipe is checked when it is made, frozen afterwards, and survives JSON."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from tfstruct.convert.recipe import Recipe, matches
from tfstruct.errors import DataError, RecipeError
from tfstruct.samples import Preprocess

# Every field with a value that is not its default.
FULL = {
    "precision": "int4",
    "calibration": "calibration.npz",
    "calibrator": "percentile",
    "percentile": 99.5,
    "samples": 17,
    "labels": "y",
    "preprocess": Preprocess(resize=(8, 9), scale=0.5, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), function="m:f"),
    "verification": "test.npz",
    "layers": {"head": "float32", "block_*": "int8"},
    "activations": "float32",
    "rounding": "gptq",
    "batch_size": 3,
    "input_shapes": {"image": (8, 9, 3)},
    "dynamic": "sizes",
    "input_type": "uint8",
    "output_type": {"scores": "int16"},
    "allow_float": True,
    "rewrite": False,
    "open_layers": False,
    "engine": "litert",
    "require": {"sqnr_db": 20.0, "max_abs_error": 0.25},
    "check_range": False,
    "ranges": {"stem": (-1.0, 2.0)},
    "weight_limits": {"stem/kernel": (0.5, 0.25)},
    "measure_latency": False,
    "timeout": 12.5,
}


def fields(recipe):
    return {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}


def test_json_keeps_every_field():
    recipe = Recipe(**FULL)
    assert FULL.keys() | {"float_io"} == fields(recipe).keys()  # which excludes types of inputs and outputs
    floats = Recipe(float_io=True)
    assert Recipe.from_json(floats.to_json()) == floats
    assert all(value != fields(Recipe())[name] for name, value in FULL.items())
    again = Recipe.from_json(recipe.to_json())
    # Field by field: calibration, labels and verification are left out when recipes are compared.
    assert fields(again) == {**FULL, "float_io": False}
    assert again == recipe and again.preprocess == FULL["preprocess"]
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_json_of_the_defaults():
    recipe = Recipe()
    assert fields(Recipe.from_json(recipe.to_json())) == fields(recipe)
    assert Recipe.from_json("{}") == recipe
    assert Recipe.from_json(Recipe(batch_size=None).to_json()).batch_size is None


def test_json_is_plain():
    data = json.loads(Recipe(**FULL).to_json())
    assert data["input_shapes"] == {"image": [8, 9, 3]} and data["preprocess"]["resize"] == [8, 9]
    assert Recipe.from_dict(data).input_shapes == {"image": (8, 9, 3)}


def test_a_path_becomes_text():
    recipe = Recipe(calibration=pathlib.Path("a") / "b.npz", verification=pathlib.Path("c"))
    assert recipe.to_dict()["calibration"] == str(pathlib.Path("a") / "b.npz")
    assert Recipe.from_json(recipe.to_json()).verification == "c"


@pytest.mark.parametrize("field", ["calibration", "labels", "verification"])
def test_data_in_memory_has_no_json(field):
    recipe = Recipe(**{field: np.zeros(3)})
    with pytest.raises(RecipeError, match=rf"`{field}` is in memory \(ndarray\).*recipe.replace\({field}=None\)"):
        recipe.to_json()
    assert json.loads(recipe.replace(**{field: None}).to_json())[field] is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"precision": "int7"}, "`precision` must be one of float32, .*Received: 'int7'"),
        ({"calibrator": "max"}, "`calibrator` must be one of minmax, .*Received: 'max'"),
        ({"activations": "int16"}, "`activations` must be one of int8, float32. Received: 'int16'"),
        ({"rounding": "up"}, "`rounding` must be one of auto, nearest, gptq. Received: 'up'"),
        ({"engine": "onnx"}, "`engine` must be one of auto, litert, tensorflow. Received: 'onnx'"),
        ({"percentile": 50}, r"`percentile` must be in \(50, 100\]. Received: 50"),
        ({"percentile": 100.01}, r"`percentile` must be in \(50, 100\]. Received: 100.01"),
        ({"percentile": float("nan")}, "`percentile` must be in .*Received: nan"),
        ({"percentile": "99"}, "`percentile` must be in .*Received: .?99"),
        ({"percentile": None}, "`percentile` must be in .*Received: None"),
        ({"samples": 0}, "`samples` must be a positive integer. Received: 0"),
        ({"samples": 2.0}, "`samples` must be a positive integer. Received: 2.0"),
        ({"samples": True}, "`samples` must be a positive integer. Received: True"),
        ({"samples": None}, "`samples` must be a positive integer. Received: None"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer or None. Received: 0"),
        ({"batch_size": -1}, "`batch_size` must be a positive integer or None. Received: -1"),
        ({"batch_size": "1"}, "`batch_size` must be a positive integer or None. Received: '1'"),
        ({"open_layers": True}, r"`open_layers` must be 'auto' \(custom layers are opened\) or False. Received: True"),
        ({"open_layers": np.zeros(2)}, "`open_layers` must be 'auto' .*Received: array"),
        ({"timeout": 0}, "`timeout` must be a positive, finite number of seconds. Received: 0"),
        ({"timeout": float("nan")}, "`timeout` must be a positive, finite number of seconds. Received: nan"),
        ({"timeout": "60"}, "`timeout` must be a positive, finite number of seconds. Received: '60'"),
        ({"layers": {"head": "half"}}, r"`layers\['head'\]` must be one of float32, .*Received: 'half'"),
        ({"precision": "float16", "layers": {"a": "float32"}}, "`layers` cannot be combined with precision 'float16'"),
        ({"require": {"speed": 1}}, "`require` must be one of accuracy, .*Received: 'speed'"),
        ({"require": {"sqnr_db": "20"}}, r"`require\['sqnr_db'\]` must be a number. Received: '20'"),
        ({"require": {"sqnr_db": True}}, r"`require\['sqnr_db'\]` must be a number. Received: True"),
        ({"require": {"sqnr_db": float("nan")}}, r"`require\['sqnr_db'\]` must be a number. Received: nan"),
        ({"input_shapes": {"x": (None, 3)}}, r"`input_shapes\['x'\]` must be positive integers.*\(None, 3\)"),
        ({"input_shapes": {"x": (0,)}}, r"`input_shapes\['x'\]` must be positive integers.*\(0,\)"),
        ({"input_shapes": {"x": 3}}, r"`input_shapes\['x'\]` must be positive integers.*Received: 3"),
        ({"engine": "tensorflow", "precision": "int4"}, "`engine='tensorflow'` writes .*Received: 'int4'"),
        ({"engine": "tensorflow", "precision": "dynamic"}, "`engine='tensorflow'` writes .*Received: 'dynamic'"),
        (
            {"engine": "tensorflow", "precision": "int8", "layers": {"a": "int16x8"}},
            "`engine='tensorflow'` can keep layers in float32 only",
        ),
    ],
)
def test_a_wrong_field_is_named(change, match):
    with pytest.raises(RecipeError, match=match):
        Recipe(**change)
    with pytest.raises(RecipeError, match=match):
        Recipe().replace(**change)
    with pytest.raises(RecipeError, match=match):
        Recipe.from_dict(change)


@pytest.mark.parametrize(
    "change",
    [
        {"percentile": 100},
        {"percentile": 50.01},
        {"samples": 1},
        {"timeout": 0.1},
        {"input_shapes": {"scalar": ()}},
        {"precision": "float32", "layers": {"a": "float16"}},
        {"engine": "tensorflow", "precision": "int8", "layers": {"a": "float32"}},
        {"require": {name: 0.5 for name in ("accuracy", "top1_agreement", "cosine", "mean_abs_error")}},
    ],
)
def test_what_is_allowed_at_the_border(change):
    recipe = Recipe(**change)
    assert {name: getattr(recipe, name) for name in change} == change


def test_unknown_fields():
    with pytest.raises(RecipeError, match=r"Unknown recipe fields \['calibratr', 'size'\]. Expected some of .*'calib"):
        Recipe.from_dict({"size": 3, "precision": "int8", "calibratr": "mse"})


@pytest.mark.parametrize(
    ("text", "match"), [("precision: int8", "must be JSON"), ("[1]", "must be a JSON object. Received: list")]
)
def test_text_that_is_no_recipe(text, match):
    with pytest.raises(RecipeError, match=match):
        Recipe.from_json(text)


def test_unknown_preprocessing_steps():
    with pytest.raises(RecipeError, match="rezise"):
        Recipe.from_dict({"preprocess": {"rezise": [8, 8]}})


def test_wrong_preprocessing_steps():
    with pytest.raises((RecipeError, DataError), match="`std` must be above 0"):
        Recipe.from_dict({"preprocess": {"std": [0.0]}})


def test_frozen():
    layers = {"a": "float32"}
    recipe = Recipe(precision="int8", layers=layers, input_shapes={"x": [2, 3]})
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.precision = "float32"
    layers["b"] = "int8"
    assert recipe.layers == {"a": "float32"} and recipe.input_shapes == {"x": (2, 3)}


def test_replace_leaves_the_first_one():
    recipe = Recipe(**FULL)
    other = recipe.replace(samples=5)
    assert other.samples == 5 and recipe.samples == 17
    assert {**fields(other), "samples": 17} == fields(recipe)


def test_data_is_no_part_of_equality():
    assert Recipe(calibration=np.zeros(3)) == Recipe(calibration=np.ones(4))
    assert Recipe(samples=3) != Recipe(samples=4)


@pytest.mark.parametrize(
    ("change", "ranges"),
    [
        ({"precision": "float32"}, False),
        ({"precision": "float16"}, False),
        ({"precision": "dynamic"}, False),
        ({"precision": "int8"}, True),
        ({"precision": "int16x8"}, True),
        ({"precision": "int4"}, True),
        ({"precision": "int4", "activations": "float32"}, False),
        ({"precision": "float32", "layers": {"a": "int8"}}, True),
        ({"precision": "float32", "layers": {"a": "int4"}}, True),
        ({"precision": "dynamic", "layers": {"a": "int4"}, "activations": "float32"}, False),
    ],
)
def test_what_needs_ranges(change, ranges):
    assert Recipe(**change).quantizes_activations is ranges


def test_the_last_pattern_that_matches_wins():
    recipe = Recipe(
        precision="int8", layers={"block_*": "int4", "block_2/*": "float32", "conv": "dynamic", "block_3": "int16x8"}
    )
    assert recipe.precision_of(("stem",)) == "int8"
    assert recipe.precision_of(()) == "int8"
    assert recipe.precision_of(("block_1/dense",)) == "int4"
    assert recipe.precision_of(("block_2/dense",)) == "float32"
    assert recipe.precision_of(("block_2/conv",)) == "dynamic"
    assert recipe.precision_of(("block_3/conv",)) == "int16x8"
    # An operator that several layers were fused into: the last pattern that any of them matches.
    assert recipe.precision_of(("stem", "block_1/relu", "block_3/bn")) == "int16x8"
    assert recipe.precision_of(("block_3/bn", "block_1/relu")) == "int16x8"


def test_the_order_of_the_patterns_decides():
    both = {"head": "float32", "*": "int8"}
    assert Recipe(layers=both).precision_of(("head",)) == "int8"
    assert Recipe(layers=dict(reversed(both.items()))).precision_of(("head",)) == "float32"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("conv1", "conv1", True),
        ("conv1", "conv10", False),
        ("conv1", "backbone/conv1", True),  # a name
        ("backbone/conv1", "backbone/conv1", True),  # a path
        ("conv1/backbone", "backbone/conv1", False),
        ("backbone", "backbone/conv1", True),  # a block
        ("backbone", "backbone/stage/conv1", True),
        ("backbone/stage", "backbone/stage/conv1", True),
        ("backbone", "backbone2/conv1", False),
        ("conv*", "backbone/conv1", True),
        ("*/conv1", "backbone/conv1", True),
        ("*/conv1", "conv1", False),
        ("block_*", "block_7/conv", True),
        ("block_?", "block_17/conv", False),
        ("block_[12]", "block_2/conv", True),
        ("block_[12]", "block_3/conv", False),
        ("*", "anything/at/all", True),
        ("Conv1", "conv1", False),  # case counts
        ("", "conv1", False),
    ],
)
def test_patterns(pattern, path, expected):
    assert matches(pattern, path) is expected


def test_a_block_inside_a_block_is_matched_by_its_name():
    assert matches("stage", "backbone/stage/conv1")
    assert matches("stage_*", "backbone/stage_1/conv1")
    assert not matches("stage", "backbone/stages/conv1")


def test_a_recipe_from_arguments():
    data = np.zeros((4, 2), "float32")
    made = Recipe.of("int8", calibration=data, float_io=True)
    assert (made.precision, made.float_io) == ("int8", True) and made.calibration is data
    assert Recipe.of(made, float_io=False) == made.replace(float_io=False)
    assert Recipe.of() == Recipe() and Recipe.of(precision="float16") == Recipe("float16")


@pytest.mark.parametrize(
    ("given", "fields", "said"),
    [
        ("int8", {"calibraton": 1}, "no field `calibraton`. Did you mean `calibration`"),
        (None, {"zzz": 1}, "no field `zzz`. It has: precision, calibration"),
        ("int7", {}, "`precision` must be one of float32"),
        ("int8", {"precision": "int4"}, "Give the precision once. Received: 'int8' and 'int4'"),
        (8, {}, "Expected a Recipe or the name of a precision such as 'int8'. Received: 8"),
        ({"precision": "int8"}, {}, "Expected a Recipe or the name of a precision"),
    ],
)
def test_what_is_no_recipe(given, fields, said):
    with pytest.raises(RecipeError, match=said):
        Recipe.of(given, **fields)


def test_ranges_and_limits_as_numbers_lists_and_arrays():
    limits = {"a/kernel": 0.5, "b/kernel": np.float32([0.5, 0.25]), "c/kernel": [np.float32(2.0), 1]}
    recipe = Recipe(ranges={"a": np.array([-1.0, 2.0])}, weight_limits=limits)
    assert recipe.ranges == {"a": (-1.0, 2.0)}
    assert recipe.weight_limits == {"a/kernel": (0.5,), "b/kernel": (0.5, 0.25), "c/kernel": (2.0, 1.0)}
    assert Recipe.from_dict(recipe.to_dict()) == recipe
