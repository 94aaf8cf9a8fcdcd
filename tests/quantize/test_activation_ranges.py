"""Ranges of a twin in files whose activation functions are several operators, some of which become part of others."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct import to_tflite
from tfstruct.errors import RecipeError
from tfstruct.quantize import calibrate
from tfstruct.quantize.layer_sensitivity import sqnr

ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "sigmoid", "tanh", "hard_sigmoid",
    "hard_silu", "hard_tanh", "softplus", "softsign", "log_sigmoid", "exponential", "squareplus", "tanh_shrink",
    "soft_shrink",
)  # fmt: skip
SINGLE = {"relu", "relu6", "leaky_relu", "gelu", "silu", "sigmoid", "tanh", "hard_silu", "exponential"}
x = np.random.default_rng(0).normal(size=(96, 6)).astype("float32")


def _model(names, operations=False):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    outputs = []
    for name in names:
        y = layers.Dense(8, name=f"to_{name}")(inputs)
        if operations:
            y = getattr(ops, name)(layers.Dense(8, name=f"dense_{name}")(y))
        else:
            y = layers.Dense(8, activation=name, name=name)(y)
        outputs.append(layers.Dense(4, name=f"from_{name}")(y))
    return keras.Model(inputs, outputs)


def _exact(model, file) -> list[float]:
    made = file.predict(x)
    made = [made[name] for name in model.output_names] if isinstance(made, dict) else [made]
    expected = keras.tree.flatten(model(x))
    return [sqnr(np.asarray(a), np.asarray(b)) for a, b in zip(expected, made, strict=True)]


@pytest.mark.parametrize("operations", [False, True])
def test_files_of_a_twin_are_as_exact_as_without(operations):
    # An operation is not written in other operators as a layer is, and there is none for integers.
    names = [name for name in ACTIVATIONS if not operations or (hasattr(ops, name) and name != "elu")]
    model = _model(names, operations)
    twin = calibrate(model, x)
    with_ranges, alone = (to_tflite(one, "int8", calibration=x, measure_latency=False) for one in (twin, model))
    ours, plain = (_exact(model, file) for file in (with_ranges, alone))
    short = {name: (a, b) for name, a, b in zip(names, ours, plain, strict=True) if a < b - 1.0}
    assert not short
    skipped = {path for path, _ in twin.report.skipped}
    if not operations:
        assert skipped == set(names) - SINGLE


def test_values_inside_have_the_ranges_of_calibration_or_are_asked_for():
    twin = calibrate(_model(["softplus"]), x)
    with pytest.raises(RecipeError, match=r"says nothing about .*EXP \(softplus\).*Give calibration data"):
        to_tflite(twin, "int8")
    model = _model(["silu", "hard_silu", "gelu"])
    assert min(_exact(model, to_tflite(calibrate(model, x), "int8"))) > 25
