"""Bits by layer: the best of all choices, within a budget that the real file keeps."""

import itertools

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from sweeps import sweep

from tfstruct import Recipe
from tfstruct.analyze.costs import Costs
from tfstruct.convert.flatbuffer import operators
from tfstruct.convert.tflite import Converter
from tfstruct.errors import BudgetError
from tfstruct.graph import trace
from tfstruct.quantize import Scheme, calibrate, mixed_precision, sensitivity
from tfstruct.quantize.precision_search import _chosen


@pytest.fixture(scope="module")
def model():
    x = inputs = keras.Input((10, 10, 3), name="image")
    for i, width in enumerate((16, 24, 48)):
        x = layers.Conv2D(width, 3, use_bias=False, name=f"conv{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(layers.BatchNormalization(name=f"norm{i}")(x))
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return zoo.randomise(keras.Model(inputs, layers.Dense(40, name="head")(x), name="net"))


@pytest.fixture(scope="module")
def x(model):
    return zoo.sample_inputs(model, 32)


@pytest.fixture(scope="module")
def known(model, x):
    return sensitivity(model, x)


def written(model, x, scheme, process):
    with Converter(calibrate(model, x, scheme), process=process) as converter:
        return converter.convert(Recipe())


@pytest.mark.parametrize("budget", sweep([19_000, 0.75], quick=[19_000]))
def test_the_file_keeps_the_budget_and_has_the_bits(budget, model, x, known, process):
    scheme = mixed_precision(model, x, {"tflite_bytes": budget}, known=known)
    assert scheme.precision == "int8" and 0 < len(scheme.layers) < 4
    file = written(model, x, scheme, process)
    if budget < 1:
        budget *= Costs(trace(model), ("tflite_bytes",))()["tflite_bytes"]
    assert len(file.content) <= budget
    report = scheme.report
    assert len(file.content) <= report.reached <= report.limit < report.whole
    assert report.limit == pytest.approx(budget)
    assert {row.layer: row.precision for row in report.rows if row.precision != "int8"} == scheme.layers
    assert {(row.layer, row.precision, row.noise) for row in known.rows} >= {
        (row.layer, row.precision, row.error) for row in report.rows
    }
    assert f"{len(scheme.layers)} layer" in str(report).splitlines()[0]
    stored = {op.layers[0]: op.weights for op in operators(file.content, file.layers) if op.weights}
    assert {path for path, bits in stored.items() if bits == "int4"} == set(scheme.layers)


def test_float_where_there_is_room(model, x, known, process):
    every = mixed_precision(model, x, {"tflite_bytes": 1e6}, ("int4", "int8", "float32"), known=known)
    assert set(every.layers.values()) == {"float32"} and set(every.layers) >= {"conv0", "norm0", "relu0", "head"}
    scheme = mixed_precision(model, x, {"tflite_bytes": 40_000}, ("int4", "int8", "float32"), known=known)
    assert {"float32"} == {*scheme.layers.values()} and len(scheme.layers) < len(every.layers)
    assert len(written(model, x, scheme, process).content) <= 40_000


def test_the_least_error_of_all_choices():
    rng = np.random.default_rng(0)
    names = ("int4", "int8", "float32")
    for _ in range(20):
        choices = [dict(zip(names, np.sort(rng.uniform(size=3))[::-1], strict=True)) for _ in range(5)]
        costs = [dict(zip(names, np.sort(rng.integers(10, 900, 3)).astype(float), strict=True)) for _ in range(5)]
        limit = 100 + sum(min(c.values()) for c in costs) + 700
        found = _chosen(limit, 100.0, choices, costs)

        def cost(picked, costs=costs):
            return 100 + sum(c[p] for c, p in zip(costs, picked, strict=True))

        def error(picked, choices=choices):
            return sum(c[p] for c, p in zip(choices, picked, strict=True))

        best = min(error(p) for p in itertools.product(names, repeat=5) if cost(p) <= limit)
        assert cost(found) <= limit and error(found) == pytest.approx(best)


def test_latency_by_a_function(model, x, known):
    """int4 takes half the time of a kernel, in a device of our imagination: each layer by its size."""
    sizes = {layer.name: layer.count_params() for layer in model.layers if layer.name[:4] in ("conv", "head")}

    def latency(model, scheme):
        return 100 + sum(n / 100 * (0.5 if scheme.precision_of(path) == "int4" else 1) for path, n in sizes.items())

    whole = latency(model, Scheme("int8"))
    scheme = mixed_precision(model, x, {"latency_us": 0.8}, latency=latency, known=known)
    assert latency(model, scheme) <= 0.8 * whole
    assert set(scheme.layers.values()) == {"int4"} and len(scheme.layers) < 4
    worse = mixed_precision(model, x, {"latency_us": whole}, latency=latency, known=known)
    assert worse.layers == {}


def test_layers_of_one_name_in_nested_models(x):
    block = keras.Sequential([keras.Input((8, 8, 16)), layers.Conv2D(16, 3, name="conv")], name="block")
    inputs = keras.Input((10, 10, 3), name="image")
    y = layers.GlobalAveragePooling2D(name="gap")(block(layers.Conv2D(16, 3, name="conv")(inputs)))
    net = zoo.randomise(keras.Model(inputs, y))
    report = sensitivity(net, x)
    int8 = Costs(trace(net), ("tflite_bytes",))()["tflite_bytes"]
    for saved, inner, outer in ((100, "int8", "int4"), (1000, "int4", "int8"), (1300, "int4", "int4")):
        scheme = mixed_precision(net, x, {"tflite_bytes": int8 - saved}, known=report)
        assert (scheme.precision_of("block/conv"), scheme.precision_of("conv")) == (inner, outer)


def test_wrong_arguments(model, x, known):
    with pytest.raises(BudgetError, match="cannot be met with these precisions: the least is"):
        mixed_precision(model, x, {"tflite_bytes": 5000}, known=known)
    with pytest.raises(BudgetError, match="is a dict over tflite_bytes, latency_us"):
        mixed_precision(model, x, 0.5)
    with pytest.raises(BudgetError, match="needs `latency=`"):
        mixed_precision(model, x, {"latency_us": 0.5})
    with pytest.raises(ValueError, match="int16x8 goes with float32 alone"):
        mixed_precision(model, x, {"tflite_bytes": 0.5}, ("int8", "int16x8"))
    with pytest.raises(ValueError, match="`precisions` must be some of"):
        mixed_precision(model, x, {"tflite_bytes": 0.5}, ("int7",))
    with pytest.raises(BudgetError, match="`latency_us` of 100 cannot be met"):  # layers alone promise too much
        mixed_precision(model, x, {"latency_us": 0.5}, latency=lambda m, s: 140.0 if s.layers else 200.0, known=known)
