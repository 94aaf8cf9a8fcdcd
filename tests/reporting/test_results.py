"""Every call from model to model hands back the new model with a report of what was done."""

import copy
import pickle

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import convert, initializers, quantize, regularizers, surgery
from tfstruct.layers import DropConnect, finalize
from tfstruct.reporting import Report

X = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Conv2D(6, 1, name="next"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(2, name="head"),
        ],
        name="net",
    )


def adapted() -> keras.Model:
    model = network()
    model.get_layer("head").enable_lora(1)
    return model


def dropped() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, DropConnect(layers.Dense(2), 0.5, name="drop")(x), name="net")


CALLS = {
    "shrink": lambda: surgery.shrink(network()),
    "fold_batch_norm": lambda: surgery.fold_batch_norm(network()),
    "optimize_inference": lambda: surgery.optimize_inference(network()),
    "widen": lambda: surgery.widen(network(), "conv", 6),
    "factorize": lambda: surgery.factorize(network(), rank=1),
    "apply": lambda: surgery.apply(network(), surgery.plan_channels(network(), 0.5)),
    "merge_lora": lambda: surgery.merge_lora(adapted()),
    "finalize": lambda: finalize(dropped()),
    "equalize": lambda: quantize.equalize(surgery.fold_batch_norm(network()).model),
    "correct_bias": lambda: quantize.correct_bias(network(), X),
    "calibrate": lambda: quantize.calibrate(network(), X),
    "adaround": lambda: quantize.adaround(network(), X, "int4", steps=2),
    "dequantize": lambda: quantize.dequantize(quantize.Twin(network(), "int4")),
    "convert.dequantize": lambda: convert.dequantize(quantize.Twin(network(), "int4")),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.sweep(7)
def test_a_model_and_its_report(call, tmp_path):
    result = call()
    assert isinstance(result.model, keras.Model) and isinstance(result.report, Report)
    shape = result.model(X[:2]).shape
    assert shape == (2, 2) and str(result.report) and "<table>" in result.report._repr_html_()
    # What goes on as a plain model is saved as one.
    result.model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(X[:2]), result.model(X[:2]), rtol=1e-5, atol=1e-6)
    assert not hasattr(again, "report")


def test_a_result_reads_like_its_report():
    result = surgery.fold_batch_norm(network())
    assert result.changes is result.report.changes and str(result) == str(result.report)
    assert result._repr_html_() == result.report._repr_html_()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = result.nonsense


def regularized() -> keras.Model:
    model = network()
    regularizers.apply(model, "l2")
    return model


IN_PLACE = {
    "recalibrate_batch_norm": (lambda: surgery.recalibrate_batch_norm(network(), X), ["norm"], 1),
    "regularizers.apply": (lambda: regularizers.apply(network(), "l1", layers="n*"), ["next/kernel"], ("next/kernel",)),
    "regularizers.remove": (lambda: regularizers.remove(regularized(), "head"), ["head/kernel"], ("head/kernel",)),
    "LSUV": (lambda: initializers.LSUV(network(), X), ["conv", "next", "head"], None),
    "inherit": (lambda: initializers.inherit(network(), network()), ["conv", "next", "head"], None),
}


@pytest.mark.parametrize("call, names, value", IN_PLACE.values(), ids=IN_PLACE)
def test_a_call_in_place_says_what_it_changed(call, names, value, tmp_path):
    report = call()
    assert isinstance(report, Report) and [name for name, _ in report.changes][: len(names)] == names
    assert all(name in str(report) for name in names) and "<table>" in report._repr_html_()
    report.save(tmp_path / "report.json")
    assert report.to_dict()["value"] is not None and (tmp_path / "report.json").exists()
    assert (value is None or report == value) and report == report.value and report != "another" and report
    assert copy.copy(report) == report == pickle.loads(pickle.dumps(report))


def test_a_report_of_a_call_in_place_is_used_like_its_value():
    paths = regularizers.apply(network(), "l2")
    assert len(paths) == 3 and "head/kernel" in paths and paths[0] == "conv/kernel" and paths.index("next/kernel") == 1
    again = regularizers.apply(regularized(), "l1", layers="head")
    assert again.changes == (("head/kernel", "penalized, in place of L2"),)
    variances = initializers.LSUV(network(), X)
    assert dict(variances.items()) == {path: variances[path] for path in variances}
    assert ("norm", "it is no dense layer or convolution") in variances.skipped
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = paths.nonsense


def test_a_plan_that_is_edited_later_leaves_the_report_as_it_was():
    model = network()
    plan = surgery.plan_channels(model, 0.5)
    smaller = surgery.apply(model, plan)
    plan.keep["conv"] = [0]
    assert smaller.report.keep["conv"] != [0] and smaller.report.removed
