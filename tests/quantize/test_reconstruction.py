"""Learned rounding: against all ways to round, on the grid, less error, and the same integers in the file."""

import itertools
import json

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from sweeps import sweep
from test_subgraphs import residual

from tfstruct import Recipe
from tfstruct.convert import flatbuffer
from tfstruct.convert.tflite import Converter
from tfstruct.errors import ModelError
from tfstruct.quantize import Scheme, Twin, adaround, blockwise, calibrate, correct_bias
from tfstruct.quantize.soft_rounding import SoftKernel


def codes(twin, name):
    """The integers of a kernel, by output channel on the last axis, and how far the weight is from them."""
    grid = twin.simulation.grids[name]
    q, s = (np.asarray(v) for v in grid.integers(grid.kernel.variable.value))
    return q, np.abs(np.asarray(grid.seen(grid.kernel.variable.value)[0] / s) - q.reshape(-1, q.shape[-1])).max()


def test_soft_kernels_against_numpy():
    model = zoo.randomise(keras.Sequential([keras.Input((5,)), layers.Dense(4, name="fc")]))
    grid = Twin(model, Scheme("int4", steps="learned")).simulation.grids["fc/kernel"]
    soft = SoftKernel(grid)
    w, s = model.get_layer("fc").kernel.numpy(), np.asarray(grid.learned.variable)
    np.testing.assert_allclose(soft.soft(), np.clip(w, -7 * s, 7 * s), rtol=1e-3, atol=2e-4)
    v = np.random.default_rng(0).normal(size=w.shape).astype("float32") * 3
    soft.v.assign(v)
    h = np.clip(1.2 / (1 + np.exp(-v)) - 0.1, 0, 1)
    down = np.minimum(np.floor(np.clip(w / s, -7, 7)), 6)
    np.testing.assert_allclose(soft.soft(), (down + h) * s, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(soft.undecided(3.0), (1 - np.abs(2 * h - 1) ** 3).sum(), rtol=1e-5)
    moved = soft.settle()
    np.testing.assert_allclose(model.get_layer("fc").kernel, (down + (h >= 0.5)) * s, rtol=1e-5)
    assert moved == (down + (h >= 0.5) != np.round(np.clip(w / s, -7, 7))).sum() > 0


def test_nearly_the_best_of_all_ways_to_round():
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(256, 2)) @ rng.normal(size=(2, 8)) + 0.1 * rng.normal(size=(256, 8))).astype("float32")
    model = zoo.randomise(keras.Sequential([keras.Input((8,), name="x"), layers.Dense(1, name="fc")]))
    made = adaround(model, x, "int4", steps=300, calibrator="minmax")
    w = model.get_layer("fc").kernel.numpy()
    grid = made.simulation.grids["fc/kernel"]
    s = np.asarray(grid.learned.variable)
    wanted = x @ w

    def error(kernel):
        return np.square(x @ kernel - wanted).mean()

    ways = itertools.product((0, 1), repeat=8)
    best = min(error(np.clip(np.floor(w / s) + np.reshape(way, (8, 1)), -7, 7) * s) for way in ways)
    found, nearest = error(made.model.get_layer("fc").kernel.numpy()), error(np.clip(np.round(w / s), -7, 7) * s)
    assert best <= found < 0.25 * nearest
    assert found < 2 * best


def four_bits(content, shape):
    """The constants of 4 bits of a file that have this shape."""
    read = flatbuffer.read(content)
    found = []
    for tensor in read.subgraphs[0].tensors:
        if tensor.type == flatbuffer.schema.TensorType.INT4 and tuple(tensor.shape) == shape:
            pairs = np.asarray(read.buffers[tensor.buffer].data, np.uint8)
            values = np.stack([pairs & 15, pairs >> 4], axis=-1).ravel().astype(int)
            found.append(np.where(values > 7, values - 16, values).reshape(shape))
    return found


@pytest.fixture(scope="module")
def net():
    return zoo.randomise(residual(count=1))


@pytest.fixture(scope="module")
def x(net):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(64, 8, 8, 1)) + 0.3 * rng.normal(size=(64, 8, 8, 3))).astype("float32")


def noise(model, twin, x):
    a = np.asarray(model(x))
    return np.square(np.asarray(twin(x)) - a).sum() / np.square(a).sum()


@pytest.mark.parametrize("method", sweep([adaround, blockwise], quick=[blockwise]))
def test_less_error_on_the_grid_and_in_the_file(method, net, x, process):
    weights = [w.numpy().copy() for w in net.weights]
    reports, said = [], []
    made = method(net, x, "int4", steps=40, progress=lambda *what: said.append(what), report=reports.append)
    (report,) = reports
    assert all(row.after <= row.nearest for row in report.units) and sum(len(r.kernels) for r in report.units) == 4
    assert len(report.units) == (4 if method is adaround else 3)
    assert said[-1] == (method.__name__, 40 * len(report.units), 40 * len(report.units))
    assert noise(net, made, x) < 0.5 * noise(net, calibrate(net, x, "int4"), x)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(weights, net.weights, strict=True))
    for name in made.simulation.grids:
        q, off = codes(made, name)
        assert off < 1e-3 and np.abs(q).max() <= 7
    if method is blockwise:
        with Converter(made, process=process) as converter:
            file = converter.convert(Recipe())
        stored = four_bits(file.content, (4, 3, 3, 4))
        for name in ("a1", "a2"):
            wanted = codes(made, f"{name}/kernel")[0] * np.sign(net.get_layer(f"{name}_norm").gamma)
            assert any(np.array_equal(kernel, wanted.transpose(3, 0, 1, 2)) for kernel in stored)
        ours, theirs = np.asarray(made(x)), file.predict(x)
        assert np.abs(ours - theirs).max() <= 2 * (ours.max() - ours.min()) / 255
    assert "weights moved" in str(report) and json.loads(report.to_json())["precision"] == "int4"
    assert report.table().row_count == len(report.units) and report.plot().axes


def test_with_what_came_before_and_behind(net, x):
    """Steps survive calibration and bias correction; a twin's ranges are kept."""
    first = calibrate(net, x, Scheme("int4", layers={"head": "int8"}), "minmax")
    made = adaround(first, x, steps=5)
    assert made.ranges() == first.ranges() and made.scheme == first.scheme.replace(steps="learned")
    for after in (calibrate(made, x, calibrator="percentile"), correct_bias(made, x)):
        assert after.weight_limits() == made.weight_limits()
        np.testing.assert_array_equal(codes(after, "a1/kernel")[0], codes(made, "a1/kernel")[0])
    again = adaround(made, x, steps=5)
    np.testing.assert_array_equal(codes(again, "a1/kernel")[0], codes(made, "a1/kernel")[0])


@pytest.mark.parametrize("name", sweep(["shared", "nested", "several"], quick=["shared"]))
def test_each_kernel_once(name):
    model = zoo.build(name)
    reports = []
    made = blockwise(model, zoo.sample_inputs(model, 16), "int4", steps=3, report=reports.append)
    kernels = [name for row in reports[0].units for name in row.kernels]
    assert sorted(kernels) == sorted(made.simulation.grids)


def test_kernels_that_have_no_choice(x):
    model = zoo.build("gru")
    reports = []
    adaround(model, zoo.sample_inputs(model, 8), steps=2, report=reports.append)
    assert len(reports[0].left) == 2 and all(name.startswith("gru_layer") for name in reports[0].left)
    with pytest.raises(ModelError, match="no kernel that can be rounded up or down"):
        adaround(keras.Sequential([keras.Input((4,)), layers.ReLU()]), np.ones((4, 4), "float32"), steps=2)
