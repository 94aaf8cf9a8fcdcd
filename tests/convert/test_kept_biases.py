"""Linear layers behind each other: every bias stays in the operator of its layer, as in the twin."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tfstruct import Recipe
from tfstruct.convert import kept_biases
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.tflite import Converter
from tfstruct.quantize import calibrate

RNG = np.random.default_rng(0)


class Linear(layers.Layer):
    """x w + b, by `keras.ops`."""

    def __init__(self, units):
        super().__init__()
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.b = self.add_weight(shape=(self.units,), name="bias")

    def call(self, x):
        return ops.matmul(x, self.w) + self.b


class Positions(layers.Layer):
    """Another number for each place."""

    def build(self, shape):
        self.bias = self.add_weight(shape=tuple(shape[1:]), name="bias")

    def call(self, x):
        return x + self.bias


def _norm():
    return layers.BatchNormalization()


def _dense(units=7, **options):
    return layers.Dense(units, **options)


def _heads():
    return layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de")


def _from_heads():
    return layers.EinsumDense("abde,def->abf", (None, 6), bias_axes="f")


# Name -> layers in a row.
ROWS = {
    "two": lambda: [_dense(), _dense()],
    "three": lambda: [_dense(), _dense(6), _dense()],
    "relu": lambda: [_dense(), _dense(activation="relu")],
    "tanh": lambda: [_dense(), _dense(activation="tanh")],
    "one number": lambda: [_dense(1), _dense()],
    "without a bias": lambda: [_dense(), _dense(use_bias=False), _dense()],
    "dropout": lambda: [_dense(), layers.Dropout(0.5), _dense()],
    "own": lambda: [Linear(7), _dense()],
    "own and own": lambda: [_dense(), Linear(7), Linear(6)],
    "batch norm": lambda: [_dense(), _norm(), _dense()],
    "its own bias only": lambda: [_dense(use_bias=False), _norm(), _dense(), _norm()],
    "scaled": lambda: [_dense(), layers.Rescaling(2.0), _dense()],
    "heads": lambda: [_heads(), _from_heads(), _dense()],
    "to heads": lambda: [_dense(8), _heads(), _from_heads()],
    "positions": lambda: [_dense(), Positions(), _dense()],
    "positions of an activation": lambda: [_dense(activation="relu"), Positions()],
    "convolution": lambda: [layers.Conv1D(6, 2), _dense()],
}
# A bias of heads is added once more in float: the last bit of its 32 may differ.
ROUNDED = {"heads", "to heads", "own", "own and own"}


def _residual(x):
    x = _dense()(x)
    y = layers.Add()([_dense()(x), x])
    return layers.Add()([y, _dense(activation="relu")(x)])


@pytest.fixture(scope="module")
def steps(process):
    """By case: how far file and twin are apart, in steps of the output. All are in one model, converted once."""
    inputs = keras.Input((5, 8), name="x")
    keras.utils.set_random_seed(0)
    outputs = {}
    for number, row in enumerate(ROWS.values()):
        x = inputs
        for layer in row():
            x = layer(x)
        outputs[f"case{number}"] = x
    outputs["residual"] = _residual(inputs)
    model = keras.Model(inputs, outputs)
    for weight in model.weights:  # biases as large as what they are added to
        if any(part in weight.name for part in ("bias", "beta", "mean")):
            weight.assign(RNG.normal(size=weight.shape) + 1)
    x = RNG.normal(size=(128, 5, 8)).astype("float32")
    twin = calibrate(model, x)
    with Converter(twin, process=process) as converter:
        file = converter.convert(Recipe())
    assert not any("MAXIMUM" in str(op) for op in file.report.operators)
    ours, theirs = twin.predict(x, verbose=0), file.predict(x)
    scales = {port.name: port.scale for port in Runtime(file.content).outputs}
    return {n: np.abs(ours[n] - theirs[n]) / scales[n] for n in outputs}


@pytest.mark.parametrize("case", [*ROWS, "residual"])
@pytest.mark.sweep(5)
def test_file_and_twin_agree(case, steps):
    found = steps[case if case == "residual" else f"case{list(ROWS).index(case)}"]
    assert np.mean(found > 0.5) <= (0.01 if case in ROUNDED else 0), found.max()
    assert found.max() < 1.5


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_float_files_compute_the_same(precision, process):
    model = keras.Sequential([keras.Input((8,)), _dense(), _dense(6), _dense()])
    x = RNG.normal(size=(16, 8)).astype("float32")
    with Converter(model, process=process) as converter:
        file = converter.convert(precision)
    assert [op.name for op in file.report.operators if op.name == "MAXIMUM"] == []
    np.testing.assert_allclose(file.predict(x), model(x), atol=1e-5 if precision == "float32" else 1e-2)


def test_ranks_that_are_open_and_numbers_that_are_complex_are_left_alone():
    @tf.function(autograph=False)
    def traced(x, y):
        kernel = tf.eye(3)
        biased = tf.matmul(tf.cast(x, tf.complex64), tf.eye(3, dtype=tf.complex64)) + tf.ones(3, tf.complex64)
        products = (
            tf.matmul(biased, tf.eye(3, dtype=tf.complex64)),
            tf.matmul(tf.matmul(y, kernel) + tf.ones(3), kernel),
        )
        kept_biases.mark(tf.compat.v1.get_default_graph())
        return products

    function = traced.get_concrete_function(tf.TensorSpec((2, 3)), tf.TensorSpec(None))
    assert sum(op.type == "Maximum" for op in function.graph.get_operations()) <= 1
    np.testing.assert_allclose(np.real(traced(tf.ones((2, 3)), tf.ones((2, 3)))[0]), 2.0)
