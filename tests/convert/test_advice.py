"""What an error of a conversion advises is done here, and ends well."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct.convert import Converter, Recipe
from tfstruct.errors import TfstructError
from tfstruct.samples import Preprocess

_RNG = np.random.default_rng(0)
_X = _RNG.normal(size=(120, 8)).astype("float32")
_PIXELS = _RNG.uniform(0, 255, (120, 6, 6, 3)).astype("float32")


def dense(**policy):
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(16, activation="relu", name="hidden", **policy)
    return keras.Sequential([keras.Input((8,), name="x"), hidden, layers.Dense(4, name="scores", **policy)])


def unbuilt():
    keras.utils.set_random_seed(0)
    return keras.Sequential([layers.Dense(4)])


def called(model):
    model(_X[:2])
    return model


def in_float32(model):
    made = dense()
    made.set_weights([np.asarray(w, np.float32) for w in model.get_weights()])
    return made


def fixed_batch():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8,), batch_size=3, name="x"), layers.Dense(4)])


def open_steps():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((None, 8), name="x"), layers.LSTM(4), layers.Dense(2)])


def pixels():
    keras.utils.set_random_seed(0)
    rescaled = [layers.Rescaling(1 / 255), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((6, 6, 3), name="image"), *rescaled])


def normalized():
    keras.utils.set_random_seed(0)
    norm = layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((6, 6, 3), name="image"), norm, layers.Conv2D(4, 3), layers.Flatten()])
    norm.moving_mean.assign(np.full(3, 127.0))
    norm.moving_variance.assign(np.full(3, 74.0**2))
    return model


def ids():
    keras.utils.set_random_seed(0)
    entries = keras.Input((5,), dtype="int32", name="ids")
    return keras.Model(entries, layers.Dense(3)(layers.Flatten()(layers.Embedding(7, 4)(entries))))


# model, recipe, what the error advises, the model and the recipe by that advice
_ENDS = {
    "unbuilt": (unbuilt, {}, r"Call it once on a batch of data \(model\(x\)\)", called, {}),
    "float16 weights": (lambda: dense(dtype="float16"), {}, "rebuild the model in float32 and copy", in_float32, {}),
    "fixed batch": (fixed_batch, {"batch_size": 5}, "Leave `batch_size` out", None, {"batch_size": 1}),  # the default
    "no data": (dense, {"precision": "int8"}, r"Recipe\(calibration=...\)", None, {"calibration": _X}),
    "no data for GPTQ": (
        dense,
        {"precision": "int4", "rounding": "gptq", "activations": "float32"},
        r"Recipe\(calibration=...\)",
        None,
        {"calibration": _X},
    ),
    "layers in float16": (
        dense,
        {"precision": "float16", "layers": {"hidden": "float32"}},
        "Use precision='float32' with layers={pattern: 'float16'}",
        None,
        {"precision": "float32", "layers": {"scores": "float16"}},
    ),
    "limits by TensorFlow's engine": (
        dense,
        {
            "precision": "int8",
            "calibration": _X,
            "engine": "tensorflow",
            "weight_limits": {"hidden/kernel": np.ones(16)},
        },
        "Use engine='litert' or 'auto'",
        None,
        {"engine": "auto"},
    ),
    "layers by TensorFlow's engine": (
        dense,
        {"precision": "int8", "calibration": _X, "engine": "tensorflow", "layers": {"hidden": "int4"}},
        "Use engine='litert' or 'auto'",
        None,
        {"engine": "litert"},
    ),
    "no such layer": (
        dense,
        {"layers": {"first": "float32"}},
        "hidden, scores",
        None,
        {"layers": {"hidden": "float32"}},
    ),
    "open sizes": (
        open_steps,
        {"precision": "int8", "calibration": _X[:, None].repeat(5, 1)},
        "input_shapes",
        None,
        {"input_shapes": {"x": (5, 8)}},
    ),
    "pixels in 0..1": (
        pixels,
        {"precision": "int8", "calibration": _PIXELS / 255},
        r"Use --scale 255 \(Preprocess\(scale=255\)\)",
        None,
        {"preprocess": Preprocess(scale=255)},
    ),
    "another scale": (
        normalized,
        {"precision": "int8", "calibration": _PIXELS / 255},
        r"Scale them as in training \(--scale",
        None,
        {"preprocess": Preprocess(scale=255)},
    ),
    "another scale on purpose": (
        normalized,
        {"precision": "int8", "calibration": _PIXELS / 255},
        r"Recipe\(check_range=False\)",
        None,
        {"check_range": False},
    ),
    "ids beyond their table": (
        ids,
        {"precision": "int8", "calibration": np.arange(600, dtype="int32").reshape(120, 5) % 9},
        r"Give data as in training \(ids within their table\)",
        None,
        {"calibration": np.arange(600, dtype="int32").reshape(120, 5) % 7},
    ),
}


@pytest.mark.parametrize("case", _ENDS)
@pytest.mark.sweep(8)
def test_advice_ends_well(case, process):
    make, fields, advice, mend, then = _ENDS[case]
    model = make()
    with pytest.raises(TfstructError, match=advice), Converter(model, process=process) as converter:
        converter.convert(Recipe.of(None, **fields))
    model = mend(model) if mend else model
    with Converter(model, process=process) as converter:
        report = converter.convert(Recipe.of(None, **{**fields, **then})).report
    assert report.verification.outputs[0].sqnr_db > (12 if "int4" in str(fields) else 25)


def test_layers_that_lose_most_are_kept_in_float(process):
    """The warning of a low figure names them: in float the figure is no longer low."""
    keras.utils.set_random_seed(0)
    entries = keras.Input((8,), name="x")
    wide = layers.Dense(8, name="wide")(entries)
    high = layers.Rescaling(1.0, offset=1000.0, name="high")(wide)
    low = layers.Rescaling(1.0, offset=-1000.0, name="low")(layers.ReLU(name="middle")(high))
    model = keras.Model(entries, layers.Dense(4, name="scores")(low))
    with Converter(model, process=process) as converter:
        report = converter.convert("int8", calibration=_X).report
        named = next(line for line in report.warnings if "Most is lost at" in line).split("Most is lost at")[1]
        kept = {layer.name: "float32" for layer in model.layers if layer.name in named}
        better = converter.convert("int8", calibration=_X, layers=kept, float_io=True).report
    assert better.verification.outputs[0].sqnr_db > 25 > 15 > report.verification.outputs[0].sqnr_db


def test_values_that_are_clipped_are_calibrated_for(process):
    new = 3 * _X
    with Converter(dense(), process=process) as converter:
        clipped = converter.convert("int8", calibration=_X, verification=new).report
        assert any("Calibrate on data like it, with calibrator='minmax'" in line for line in clipped.warnings)
        better = converter.convert("int8", calibration=new, verification=new, calibrator="minmax").report
    assert not any("clipped" in line for line in better.warnings)
    assert better.verification.outputs[0].sqnr_db > clipped.verification.outputs[0].sqnr_db + 10
