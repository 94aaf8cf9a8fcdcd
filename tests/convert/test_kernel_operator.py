"""Operators with kernels by shapes alone: those of a file, in its own and in other widths, run in the interpreter."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import Recipe
from tfstruct.convert import Converter, flatbuffer
from tfstruct.convert.kernel_operator import NAMES, KernelOperator, kernel_operator
from tfstruct.convert.latency import macs_of, shapes_of
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ArgumentError


def net():
    x = inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.Conv2D(12, (3, 1), dilation_rate=1, use_bias=False, name="column")(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="transposed")(x)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(inputs, layers.Dense(5, name="dense")(x), name="net")


@pytest.fixture(scope="module")
def files(process):
    model = net()
    x = np.random.default_rng(0).normal(size=(4, 9, 9, 3)).astype("float32")
    with Converter(model, process=process) as converter:
        return {
            name: converter.draft(Recipe(precision=name, calibration=x, check_range=False, layers=layers))[0]
            for name, layers in (("int8", {}), ("float32", {}), ("int4", {"depthwise": "int8", "transposed": "int8"}))
        }


def found(content):
    model = flatbuffer.read(content)
    pairs = [(op, kernel_operator(model, op)) for op in flatbuffer.operators(model)]
    return model, [(op, made) for op, made in pairs if made is not None]


def run(operator):
    runtime = Runtime(operator.file())
    (port,) = runtime.inputs
    assert port.shape == operator.input and port.dtype == np.dtype(operator.dtype)
    (value,) = runtime.run({port.name: np.ones(port.shape, np.float32)}).values()
    assert not value.any()  # its kernel is zero
    return value.shape


@pytest.mark.parametrize("precision", ["int8", "int4", "float32"])
def test_each_runs_in_its_own_and_in_other_widths(files, precision):
    model, pairs = found(files[precision])
    assert {op.name for op, _ in pairs} == set(NAMES)
    kinds = {made.weights for _, made in pairs}
    assert kinds == {"int8": {"int8"}, "int4": {"int4", "int8"}, "float32": {"float32"}}[precision]
    for op, made in pairs:
        assert made.shapes == shapes_of(model, op) and made.macs == macs_of(model, op)
        assert run(made) == made.output
        for inputs, outputs in ((made.inputs, 3 * made.outputs), (2 * made.inputs, made.outputs), (5, 7)):
            other = made.resized(inputs=inputs, outputs=outputs)
            assert run(other) == other.output
            assert other.inputs == inputs or op.name == "DEPTHWISE_CONV_2D"
            written = flatbuffer.read(other.file())
            (alone,) = flatbuffer.operators(written)
            assert shapes_of(written, alone) == other.shapes and alone.weights == made.weights
            again = kernel_operator(written, alone)
            assert again == other


def test_the_shapes_by_hand(files):
    _, pairs = found(files["int8"])
    conv, depthwise, column, transposed, dense = (made for _, made in pairs)
    wide = conv.resized(inputs=4, outputs=10)
    assert (wide.input, wide.kernel, wide.output) == ((1, 9, 9, 4), (10, 3, 3, 4), (1, 5, 5, 10))
    assert wide.scales == 10 and wide.macs == 5 * 5 * 10 * 9 * 4
    assert conv.resized(positions=(18, 7)).output == (1, 9, 4, 8)  # padded: halves, rounded up
    assert depthwise.resized(inputs=3).kernel == (1, 3, 3, 6) == depthwise.resized(outputs=6).kernel
    assert depthwise.resized(positions=(9, 6)).output == (1, 7, 4, 16)  # not padded: 2 less
    assert column.resized(inputs=2, outputs=3).kernel == (3, 3, 1, 2)
    assert transposed.resized(outputs=2).output[-1] == 2
    area = transposed.input[1:3]
    assert transposed.resized(positions=(area[0] + 1, area[1])).output[1] == transposed.output[1] + 2
    small = dense.resized(inputs=10, outputs=4)
    assert (small.input, small.kernel, small.output) == ((1, 10), (4, 10), (1, 4))


def test_what_has_no_kernel_is_none(files):
    model = flatbuffer.read(files["int8"])
    others = [op for op in flatbuffer.operators(model) if op.name not in NAMES]
    assert others and all(kernel_operator(model, op) is None for op in others)


def test_wrong_arguments():
    with pytest.raises(ArgumentError, match="must be one of CONV_2D"):
        KernelOperator("ADD", (1,), (1,), (1,))
    with pytest.raises(ArgumentError, match="1 channel at least"):
        KernelOperator("FULLY_CONNECTED", (1, 3), (2, 3), (1, 2)).resized(inputs=0)
