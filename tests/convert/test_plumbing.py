"""Masks, integer inputs, ids and indices: models that TensorFlow converts to int8 convert, and agree with Keras."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct.convert import Converter, Recipe
from tfstruct.convert.runtime import Runtime

RNG = np.random.default_rng(0)


def _wide():
    return keras.initializers.RandomNormal(stddev=1.0)  # as after training: the default is 1/20 of it


def _ids(steps=8, words=30, dtype="int32"):
    x = RNG.integers(1, words, (60, steps))
    x[np.arange(steps) >= RNG.integers(2, steps + 1, (60, 1))] = 0
    return x.astype(dtype)


def _embedded(x, mask=True):
    return layers.Embedding(30, 8, mask_zero=mask, embeddings_initializer=_wide())(x)


def _text(encode, dtype="int32"):
    i = keras.Input((8,), dtype=dtype, name="x")
    return keras.Model(i, layers.Dense(3)(encode(i))), {"x": _ids(dtype=dtype)}


def _own_mean(i):
    kept = ops.cast(ops.not_equal(i, 0), "float32")[:, :, None]
    return ops.sum(_embedded(i, False) * kept, axis=1) / ops.maximum(ops.sum(kept, axis=1), 1.0)


def _given_mask():
    i, m = keras.Input((8, 4), name="x"), keras.Input((8,), dtype="bool", name="m")
    y = layers.Dense(3)(layers.GlobalAveragePooling1D()(i, mask=m))
    return keras.Model([i, m], y), {"x": RNG.normal(size=(60, 8, 4)).astype("float32"), "m": RNG.random((60, 8)) > 0.3}


def _camera(first, dtype):
    i = keras.Input((8, 8, 3), dtype=dtype, name="x")
    low, high = (0, 256) if dtype == "uint8" else (-100, 100)
    x = RNG.integers(low, high, (60, 8, 8, 3)).astype(dtype)
    return keras.Model(i, layers.Conv2D(4, 3)(first(i))), {"x": x}


def _some_ids():
    i = keras.Input((4,), name="x")
    table = layers.Embedding(400, 8, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0))
    h = ops.concatenate([layers.Flatten()(table(i[:, :2])), i[:, 2:]], axis=-1)
    x = np.concatenate([RNG.integers(0, 400, (60, 2)), RNG.normal(size=(60, 2))], 1).astype("float32")
    return keras.Model(i, layers.Dense(2)(h)), {"x": x}


def _coded(layer, high=6):
    i = keras.Input((3,), dtype="int32", name="x")
    y = layers.Dense(2)(layers.Flatten()(layer(i)))
    return keras.Model(i, y), {"x": RNG.integers(0, high, (60, 3)).astype("int32")}


def _binned():
    i = keras.Input((1,), name="x")
    bins = layers.Discretization([-1.0, 0.0, 0.5, 2.0])(i)
    y = layers.Dense(2)(layers.Flatten()(layers.Embedding(5, 4)(bins)))
    return keras.Model(i, y), {"x": RNG.normal(size=(60, 1)).astype("float32")}


def _picked(h):
    """Rows of a table of 40, at the integers that numbers become."""
    return layers.Flatten()(layers.Embedding(40, 4, embeddings_initializer=_wide())(ops.cast(h, "int32")))


def _computed_ids(compute, low, high):
    i = keras.Input((3,), name="x")
    x = RNG.uniform(low, high, (60, 3)).astype("float32")
    return keras.Model(i, layers.Dense(2)(_picked(compute(i)))), {"x": x}


def _ids_beside_an_input():
    i, j = keras.Input((2,), name="x"), keras.Input((3,), name="other")
    h = ops.concatenate([_picked(i), i / 40.0, j], axis=-1)
    x = RNG.integers(0, 40, (60, 2)).astype("float32")
    return keras.Model([i, j], layers.Dense(2)(h)), {"x": x, "other": RNG.normal(size=(60, 3)).astype("float32")}


def _binned_beside():
    i = keras.Input((4,), name="x")
    rows = layers.Embedding(5, 4, embeddings_initializer=_wide())(layers.Discretization([-1.0, 0.0, 0.5, 2.0])(i))
    y = layers.Dense(2)(ops.concatenate([layers.Reshape((16,))(rows), i], axis=-1))
    return keras.Model(i, y), {"x": RNG.normal(size=(60, 4)).astype("float32")}


def _masked_series():
    i = keras.Input((8, 4), name="x")
    x = RNG.normal(size=(60, 8, 4)).astype("float32")
    x[:, 5:] = 0
    return keras.Model(i, layers.Dense(3)(layers.GRU(6)(layers.Masking()(i)))), {"x": x}


def _vector(head):
    i = keras.Input((8,), name="x")
    return keras.Model(i, head(layers.Dense(6)(i))), {"x": RNG.normal(size=(60, 8)).astype("float32")}


def _signed(slope):
    i = keras.Input((8,), name="x")
    return keras.Model(i, layers.Dense(3)(slope(i))), {"x": RNG.normal(size=(60, 8)).astype("float32")}


def _rescaled(x):
    return layers.Rescaling(1 / 127.5, -1)(x)


def _normalized(x):
    return layers.Normalization(mean=[3.0] * 3, variance=[900.0] * 3)(x)


MODELS = {
    "masked mean": lambda: _text(lambda i: layers.GlobalAveragePooling1D()(_embedded(i))),
    "masked mean of float ids": lambda: _text(lambda i: layers.GlobalAveragePooling1D()(_embedded(i)), "float32"),
    "own masked mean": lambda: _text(_own_mean),
    "given mask": _given_mask,
    "masked GRU": lambda: _text(lambda i: layers.GRU(6)(_embedded(i))),
    "masked Bidirectional": lambda: _text(
        lambda i: layers.GlobalAveragePooling1D()(
            layers.Bidirectional(layers.LSTM(6, return_sequences=True))(_embedded(i))
        )
    ),
    "Masking": _masked_series,
    "uint8 pixels": lambda: _camera(_rescaled, "uint8"),
    "int8 samples": lambda: _camera(_normalized, "int8"),
    "int16 samples": lambda: _camera(lambda x: ops.cast(x, "float32") / 128.0, "int16"),
    "int32 pixels": lambda: _camera(_normalized, "int32"),
    "float ids": lambda: _text(lambda i: layers.Flatten()(_embedded(i, False)), "float32"),
    "ids and numbers": _some_ids,
    "one_hot": lambda: _coded(lambda i: ops.one_hot(i, 6)),
    "multi_hot": lambda: _coded(layers.CategoryEncoding(6, output_mode="multi_hot")),
    "count": lambda: _coded(layers.CategoryEncoding(6, output_mode="count")),
    "bins": _binned,
    "ids plus one": lambda: _computed_ids(lambda i: ops.round(i) + 1.0, 0, 38),
    "ids of a share": lambda: _computed_ids(lambda i: ops.floor(i * 39.99), 0, 1),
    "clipped ids": lambda: _computed_ids(lambda i: ops.clip(ops.round(i * 9 + 20), 0, 39), -2, 2),
    "ids beside an input": _ids_beside_an_input,
    "bins beside": _binned_beside,
    "sign by where": lambda: _signed(lambda i: ops.where(ops.greater(i, 0.0), i, i * 0.1)),
    "sign by max": lambda: _signed(lambda i: ops.maximum(i, i * 0.1)),
    "squares": lambda: _vector(lambda y: layers.Dense(3)(ops.square(y))),
    "negative": lambda: _vector(lambda y: layers.Dense(3)(ops.relu(-y) + ops.square(-y))),
    "unit length": lambda: _vector(ops.normalize),
}
INPUTS = {
    "float ids": "int32",
    "masked mean of float ids": "int32",
    "masked mean": "int32",
    "uint8 pixels": "int8",
    "int8 samples": "int8",
    "int32 pixels": "int8",
    "ids and numbers": "float32",
    "bins": "float32",
    "bins beside": "float32",
    "ids plus one": "float32",
    "ids of a share": "float32",
    "clipped ids": "float32",
    "ids beside an input": "float32",
}
# What indices are computed by stays in float.
COMPUTED = {
    "ids plus one": ("ADD", "ROUND"),
    "ids of a share": ("MUL", "FLOOR"),
    "clipped ids": ("MUL", "ADD", "ROUND", "RELU", "MINIMUM", "MAXIMUM"),
    "sign by where": ("GREATER",),
}


@pytest.mark.parametrize("engine", ["auto", "tensorflow"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.sweep(16)
def test_it_converts_and_agrees_with_keras(process, name, engine):
    keras.utils.set_random_seed(0)
    model, x = MODELS[name]()
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe(precision="int8", calibration=x, engine=engine))
    assert file.report.verification.figures()["sqnr_db"] > 24
    allowed = {"CAST", "BUCKETIZE", "STRIDED_SLICE", "NOT_EQUAL", *COMPUTED.get(name, ())}
    assert {op.name for op in file.report.float_operators} <= allowed
    found = Runtime(file.content).inputs
    if name in INPUTS:
        (port,) = (port for port in found if port.name == "x")
        assert port.dtype == INPUTS[name]
        assert any(f"input {port.name}" in line for line in file.report.rewrites) or name == "masked mean"
        assert port.dtype != "float32" or not any("is rounded beside" in line for line in file.report.warnings)
        assert all(other.dtype == "int8" for other in found if other.name == "other")
    assert not any("clipped" in line for line in file.report.warnings)


def test_pixels_of_8_bits_are_exact(process):
    for dtype, zero in (("uint8", -128), ("int8", 0)):
        model, x = _camera(_rescaled, dtype)
        with Converter(model, process=process) as converter:
            file = converter.convert(Recipe(precision="int8", calibration=x))
        (port,) = Runtime(file.content).inputs
        assert port.scale == pytest.approx(1.0) and port.zero_point == zero


def test_float_files_keep_their_inputs(process):
    model, x = _camera(_rescaled, "uint8")
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe(calibration=x))
    assert Runtime(file.content).inputs[0].dtype == "uint8" and not file.report.rewrites


EXTREMES = {
    "end": lambda x: ops.argmax(x, axis=-1),
    "min, inner axis": lambda x: ops.argmin(x, axis=1),
    "keepdims": lambda x: ops.argmax(x, axis=2, keepdims=True),
    "negative axis": lambda x: ops.argmin(x, axis=-2, keepdims=True),
    "all": lambda x: ops.argmax(x, keepdims=True),
    "inside": lambda x: layers.Embedding(5, 3)(ops.argmax(x, axis=-1)),
}


class _Own(keras.layers.Layer):
    def call(self, x):
        return ops.argmax(x, axis=-1)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_argmax_and_argmin_convert(process, precision):
    keras.utils.set_random_seed(0)
    i = keras.Input((4, 5), batch_size=1)
    h = layers.Dense(5)(i)
    made = {name.replace(" ", "_").replace(",", ""): find(h) for name, find in EXTREMES.items()}
    model = keras.Model(i, {**made, "own": _Own()(h), "values": h})
    x = np.random.default_rng(1).normal(size=(40, 4, 5)).astype("float32")
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe(precision=precision, calibration=x if precision == "int8" else None))
    assert not [op for op in file.report.operators if op.name == "BITWISE_AND"]
    assert precision == "float32" or not file.report.float_operators
    ours = file.predict(x)
    values = ours["values"]  # of the file: the largest integer is the largest value
    assert (ours["end"] == values.argmax(-1)).all() and (ours["own"] == values.argmax(-1)).all()
    assert (ours["min_inner_axis"] == values.argmin(1)).all()
    assert (ours["keepdims"] == values.argmax(2)[:, :, None]).all()
    assert (ours["negative_axis"] == values.argmin(-2)[:, None]).all()
    assert (ours["all"].ravel() == values.reshape(len(x), -1).argmax(1)).all()
    table = next(w for w in model.weights if w.shape == (5, 3))
    close = np.abs(ours["inside"] - np.asarray(table)[values.argmax(-1)]).max()
    assert close <= (1e-6 if precision == "float32" else np.ptp(np.asarray(table)) / 255)


def _decoder(first, second):
    source, target = keras.Input((6, 3), name="s"), keras.Input((4, 3), name="t")
    _, *states = first(source)
    out, *states = second(target, initial_state=states)
    x = {"s": RNG.normal(size=(60, 6, 3)).astype("float32"), "t": RNG.normal(size=(60, 4, 3)).astype("float32")}
    return keras.Model([source, target], [layers.Dense(3)(out), *states]), x


def _pair(make):
    return make(return_state=True), make(return_state=True, return_sequences=True)


RECURRENT = {
    "lstm": lambda: _decoder(*_pair(lambda **k: layers.LSTM(4, **k))),
    "gru": lambda: _decoder(*_pair(lambda **k: layers.GRU(4, **k))),
    "simple": lambda: _decoder(*_pair(lambda **k: layers.SimpleRNN(4, **k))),
    "bidirectional": lambda: _decoder(*_pair(lambda **k: layers.Bidirectional(layers.LSTM(4, **k)))),
    "cells": lambda: _decoder(*_pair(lambda **k: layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)], **k))),
}


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.sweep(2)
def test_recurrent_layers_with_an_initial_state_are_unrolled(process, name):
    keras.utils.set_random_seed(0)
    model, x = RECURRENT[name]()
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe(precision="int8", calibration=x))
    assert not file.report.float_operators and "WHILE" not in file.report.operator_counts()
    assert file.report.verification.figures()["sqnr_db"] > 24


def test_open_steps_are_unrolled_where_the_recipe_fixes_them(process):
    i = keras.Input((None, 3), name="x")
    model = keras.Model(i, layers.Dense(2)(layers.LSTM(4)(i)))
    x = {"x": RNG.normal(size=(40, 5, 3)).astype("float32")}
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe(precision="int8", calibration=x, input_shapes={"x": (5, 3)}))
    assert not file.report.float_operators
    assert not model.get_layer(index=1).unroll and type(model.get_layer(index=1)) is layers.LSTM
