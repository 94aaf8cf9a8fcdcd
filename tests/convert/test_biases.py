"""Biases of channels whose weights are zero or tiny: 32 bits hold them, in every operator that has one."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import Recipe
from tfstruct.convert import biases, flatbuffer
from tfstruct.convert.tflite import Converter

IMAGES = np.random.default_rng(0).uniform(0, 1, (100, 6, 6, 4)).astype("float32")
SERIES, ROWS, VOLUMES = IMAGES[:, :, 0], IMAGES.reshape(100, -1)[:, :32], IMAGES.reshape(100, 4, 6, 6, 1)
LAYERS = {
    "conv": (IMAGES, lambda: layers.Conv2D(8, 3)),
    "batch norm": (
        IMAGES,
        lambda: keras.Sequential([layers.Conv2D(8, 3, use_bias=False), layers.BatchNormalization()]),
    ),
    "depthwise": (IMAGES, lambda: layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "dense": (ROWS, lambda: layers.Dense(8)),
    "conv1d": (SERIES, lambda: layers.Conv1D(8, 3)),
    "transposed": (IMAGES, lambda: layers.Conv2DTranspose(8, 3, strides=2)),
    "conv3d": (VOLUMES, lambda: layers.Conv3D(8, 3)),
    "separable": (IMAGES, lambda: layers.SeparableConv2D(8, 3)),
    "grouped": (IMAGES, lambda: layers.Conv2D(8, 3, groups=2)),
    "einsum": (SERIES, lambda: layers.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d")),
    "lstm": (SERIES, lambda: layers.LSTM(6)),
}


def dead_channels(name: str, factor: float) -> tuple[keras.Model, np.ndarray]:
    """A model of one layer, the last channels of its kernels times `factor`, its biases as large as before."""
    keras.utils.set_random_seed(1)
    x, make = LAYERS[name]
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, make()(inputs))
    rng = np.random.default_rng(2)
    for weight in model.weights:
        if len(weight.shape) == 1:
            sign = 1 if "variance" in weight.path else rng.choice([-1, 1], weight.shape)
            weight.assign(rng.uniform(0.5, 2, weight.shape) * sign)
        else:
            # The axis of the outputs is the last but one in a transposed or a depthwise kernel.
            axis = -2 if "transpose" in weight.path or "depthwise" in weight.path else -1
            value = np.moveaxis(weight.numpy(), axis, -1)
            value[..., -3:] *= factor
            weight.assign(np.moveaxis(value, -1, axis))
    return model, x


def largest_bias(content: bytes) -> float:
    """As a share of the largest that is right: 2^30, and 2^26 in 4 bits, as some kernels compute with 16 times it."""
    return max(bias.size / bias.most for bias in biases._stored(flatbuffer.read(content)))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.sweep(5)
def test_they_are_kept(name, process):
    model, x = dead_channels(name, 0.0 if name in ("conv", "dense") else 1e-12)
    with Converter(model, process=process) as converter:
        for precision, engine, least in (
            ("int8", "litert", 36), ("int8", "tensorflow", 36), ("int16x8", "litert", 45), ("int4", "litert", 30),
        ):  # fmt: skip
            made = converter.convert(Recipe(precision=precision, calibration=x, engine=engine))
            (agreement,) = made.report.verification.outputs
            assert agreement.sqnr_db > least, (precision, engine)
            assert largest_bias(made.content) <= 1.001
            assert not any("32 bits" in warning for warning in made.report.warnings)


def test_channels_with_weights_keep_their_steps(process):
    """A raised limit is that of its channel alone."""
    steps = {}
    for factor in (1.0, 1e-12):
        model, x = dead_channels("conv", factor)
        with Converter(model, process=process) as converter:
            parsed = flatbuffer.read(converter.convert(Recipe(precision="int8", calibration=x)).content)
        graph = parsed.subgraphs[0]
        op = next(op for op in graph.operators if flatbuffer.operator_name(parsed, op) == "CONV_2D")
        steps[factor] = graph.tensors[op.inputs[1]].quantization.scale
    np.testing.assert_array_equal(steps[1.0][:5], steps[1e-12][:5])
    assert (steps[1e-12][5:] > 0).all() and (steps[1e-12][5:] < steps[1.0][5:]).all()


def test_a_file_with_lost_biases_is_told(process):
    """What litert-quantizer writes by itself."""
    model, x = dead_channels("conv", 0.0)
    with Converter(model, process=process) as converter, pytest.MonkeyPatch.context() as patch:
        patch.setattr(biases, "limits_that_fit", lambda *args: {})
        made = converter.convert(Recipe(precision="int8", calibration=x, engine="litert"))
    (warning,) = (w for w in made.report.warnings if "32 bits" in w)
    assert warning.startswith("3 of 8 biases of conv2d")
