"""One layer quantized at a time: against rounding by hand, and against twins of single layers."""

import json

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from sweeps import sweep

from tfstruct.quantize import Scheme, Twin, calibrate, sensitivity
from tfstruct.quantize.fake import fake_activation


def decibel(a, b):
    return 10 * np.log10(np.square(a).sum() / np.square(a - b).sum())


def test_against_rounding_by_hand():
    inputs = keras.Input((6,), name="x")
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    model = zoo.randomise(keras.Model(inputs, layers.Dense(3, name="second")(x)))
    x = zoo.sample_inputs(model, 40)
    said = []
    report = sensitivity(model, x, progress=lambda *what: said.append(what))
    first, second = model.layers[1:]
    a = np.asarray(first(x))
    y = np.asarray(second(a))

    def rounded(layer, bits):
        w, top = layer.kernel.numpy(), 2 ** (bits - 1) - 1
        step = np.abs(w).max(0) / top
        return np.round(w / step) * step

    wanted = {}
    for name, bits in (("int8", 8), ("int4", 4)):
        z = np.maximum(x @ rounded(first, bits) + first.bias, 0)
        wanted["first", name] = decibel(y, second(np.asarray(fake_activation(z, 0.0, a.max()))))
        z = a @ rounded(second, bits) + second.bias
        wanted["second", name] = decibel(y, np.asarray(fake_activation(z, min(y.min(), 0), max(y.max(), 0))))
    got = {(row.layer, row.precision): row.sqnr_db for row in report.rows}
    assert got == {key: pytest.approx(float(value), abs=0.1) for key, value in wanted.items()}
    assert report.worst("int4")[0].sqnr_db == min(v for (_, p), v in got.items() if p == "int4")
    assert said[-1] == ("sensitivity", 4, 4) and report.metric is None


@pytest.mark.parametrize("name", sweep(["conv_bn", "residual", "concat", "depthwise", "attention"], quick=["residual"]))
def test_as_a_twin_of_that_layer_alone(name):
    model = zoo.build(name)
    x = zoo.sample_inputs(model, 64)
    report = sensitivity(model, x, ["int4"])
    every = calibrate(model, x, "int4")
    y = np.asarray(model(x))
    for row in report.rows:
        layers_ = {"*": "float32", "*/*": "float32", **dict.fromkeys(row.layers, "int4")}
        twin = Twin(model, Scheme("int4", layers=layers_))
        twin.simulation.assign(every.simulation.values())
        # The twin adds up integers, the measurement rounded floats.
        assert row.sqnr_db == pytest.approx(decibel(y, np.asarray(twin(x))), abs=0.3)


def test_layers_that_are_one_operator_are_one_line():
    report = sensitivity(zoo.build("conv_bn"), zoo.sample_inputs(zoo.build("conv_bn"), 8), ["int8", "int16x8"])
    names = {row.layer: row.layers for row in report.rows}
    assert names == {
        "stem": ("stem", "stem_bn", "stem_relu"), "conv": ("conv",), "gap": ("gap",), "head": ("head",),
    }  # fmt: skip
    finer = {row.layer: row.sqnr_db for row in report.rows if row.precision == "int16x8"}
    assert all(finer[row.layer] >= row.sqnr_db - 1 for row in report.rows)


def test_with_labels():
    model = zoo.build("conv_bn")
    x = zoo.sample_inputs(model, 64)
    y = model.predict(x, verbose=0)
    report = sensitivity(model, (x, np.argmax(y, axis=1)), ["int4"])
    assert (report.metric, report.baseline) == ("accuracy", 1.0)
    assert all(0.5 < row.score <= 1 for row in report.rows)

    def distance(labels, outputs):
        return np.abs(labels - outputs).max()

    report = sensitivity(model, x, ["int4"], labels=y, metric=distance)
    assert (report.metric, report.baseline) == ("distance", pytest.approx(0, abs=1e-6))
    assert {row.layer for row in report.rows} == {"stem", "conv", "head"}
    assert all(row.score > 1e-4 for row in report.rows)
    assert "distance in float 0.0000" in str(report) and json.loads(report.to_json())["samples"] == 64
    assert report.table().row_count == 3 and report.plot().axes
