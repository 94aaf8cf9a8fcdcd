"""Every call from model to model hands back the new model with a report of what was done."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import convert, quantize, surgery
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


def test_a_plan_that_is_edited_later_leaves_the_report_as_it_was():
    model = network()
    plan = surgery.plan_channels(model, 0.5)
    smaller = surgery.apply(model, plan)
    plan.keep["conv"] = [0]
    assert smaller.report.keep["conv"] != [0] and smaller.report.removed
