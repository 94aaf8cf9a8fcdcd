"""The twin computes what the quantized file computes, with the file's own scales."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers
from sweeps import sweep

import tfstruct
from tfstruct import Recipe
from tfstruct.convert import flatbuffer
from tfstruct.convert.tflite import Converter
from tfstruct.errors import RecipeError
from tfstruct.quantize import Scheme, Twin
from tfstruct.quantize.fake import activation_scale, fake_activation

PLAIN = [
    "conv_bn", "depthwise", "residual", "concat", "transposed", "conv1d", "several", "nested", "shared", "embedding",
]  # fmt: skip


def observed(model, x, scheme="int8", batch: int = 16) -> Twin:
    """A twin that has seen some batches; the model is not trained."""
    made = Twin(model, scheme)
    made.simulation.frozen_statistics.assign(1.0)
    for start in range(0, len(keras.tree.flatten(x)[0]), batch):
        part = keras.tree.map_structure(lambda a, start=start: a[start : start + batch], x)
        made(part, training=True)
    return made


def test_activations_against_numpy():
    x = np.random.default_rng(0).uniform(-2, 4, 200).astype("float32")
    low, high = np.float32(-1.0), np.float32(3.0)
    scale = (high - low) / 255
    zero = np.round(-128 - low / scale)
    wanted = (np.clip(np.floor(x / scale + zero + 0.5), -128, 127) - zero) * scale
    np.testing.assert_allclose(fake_activation(x, low, high), wanted, atol=1e-5)
    assert float(activation_scale(low, high)) == pytest.approx(float(scale))
    wide = fake_activation(x, low, high, bits=16)
    np.testing.assert_allclose(wide, np.clip(np.round(x / (3 / 32767)), -32767, 32767) * (3 / 32767), atol=1e-6)


KERNELS = {
    "conv": lambda: layers.Conv2D(8, 3, padding="same", name="conv"),
    "depthwise": lambda: layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
    "separable": lambda: layers.SeparableConv2D(8, 3, padding="same", name="separable"),
    "transposed": lambda: layers.Conv2DTranspose(8, 3, padding="same", name="transposed"),
    "dense": lambda: layers.Dense(8, name="dense"),
}


@pytest.mark.parametrize("kind", ["separable", "separable_1d"])
def test_the_pointwise_half_of_a_separable_convolution_in_4_bits(kind, process):
    """In the file it is a convolution of its own, which has 4 bits; the depthwise half has 8."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3) if kind == "separable" else (12, 3), name="values")
    make = KERNELS["separable"] if kind == "separable" else lambda: layers.SeparableConv1D(8, 3, padding="same")
    model = zoo.randomise(keras.Model(inputs, layers.ReLU(name="end")(make()(inputs)), name="net"))
    samples = zoo.sample_inputs(model, 16)
    twin = tfstruct.quantize.calibrate(model, samples, Scheme("int4"))
    with Converter(twin, process=process) as converter:
        file = converter.convert(Recipe())
    tensors = flatbuffer.read(file.content).subgraphs[0].tensors
    assert "int4" in {flatbuffer.dtype_name(tensor) for tensor in tensors}
    low, high = twin.ranges()["end"]
    made = file.predict(samples)
    assert np.abs(made - twin.predict(samples, verbose=0)).max() < 1.1 * (high - low) / 255


@pytest.mark.parametrize("fresh", [True, False])
def test_batch_norms_that_become_part_of_every_kind_of_kernel(fresh, process):
    """Those that were never trained add zero, and leave no trace in the file."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(inputs)
    joined = [
        layers.Add(name=f"{name}_sum")([x, layers.BatchNormalization()(kind()(x))]) for name, kind in KERNELS.items()
    ]
    model = keras.Model(inputs, joined, name="net")
    if not fresh:
        zoo.randomise(model)
    images = zoo.sample_inputs(model, 16)
    twin = tfstruct.quantize.calibrate(model, images)
    assert "separable/pre_activation" in twin.ranges()
    with Converter(twin, process=process) as converter:
        made = converter.convert(Recipe()).predict(images)
    for name, y in zip(model.output_names, twin.predict(images, verbose=0), strict=True):
        low, high = twin.ranges()[name]
        assert np.abs(made[name] - y).max() < 1.1 * (high - low) / 255, name


@pytest.mark.parametrize("name", sweep(PLAIN, {"conv_bn", "depthwise", "concat", "nested", "shared"}))
@pytest.mark.sweep(3)
def test_the_file_has_the_trained_scales_and_the_same_outputs(name, process):
    model = zoo.build(name)
    x = zoo.sample_inputs(model, 64)
    made = observed(model, x)
    ranges = made.ranges()
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe(precision="int8", ranges=ranges))
    found = set()
    read = flatbuffer.read(file.content)
    for tensor in read.subgraphs[0].tensors:
        stored = tensor.quantization
        if stored is not None and stored.scale is not None and not flatbuffer.is_constant(read, tensor):
            found.add((float(stored.scale[0]), int(stored.zeroPoint[0])))
    trained = [((high - low) / 255, round(-128 - low * 255 / (high - low))) for low, high in ranges.values()]
    for scale, zero in found:
        assert any(scale == pytest.approx(s, rel=1e-5) and zero == z for s, z in trained), (scale, zero)
    assert len(found) >= 2
    ours, theirs = made.predict(x, verbose=0), file.predict(x)
    theirs = list(theirs.values()) if isinstance(theirs, dict) else [theirs]
    for a, b in zip(keras.tree.flatten(ours), theirs, strict=True):
        step = (max(a.max(), 0) - min(a.min(), 0)) / 255
        assert np.abs(a - b).max() <= 2 * step


def test_scales_are_rightly_rounded_in_a_graph():
    """TensorFlow multiplies by the reciprocal of a constant there."""
    low, high = -np.random.default_rng(0).uniform(0, 3, (2, 1000)).astype("float32") * np.float32([[1], [-1]])
    found = tf.function(activation_scale)(tf.constant(low), tf.constant(high))
    np.testing.assert_array_equal(found, (high - low) / np.float32(255))


def test_what_is_inside_a_layer_of_many_operators_needs_calibration():
    model = zoo.build("attention")
    x = zoo.sample_inputs(model, 32)
    made = observed(model, x)
    assert "attention" in dict(made.simulation.skipped)
    with pytest.raises(RecipeError, match="Give calibration data"):
        tfstruct.to_tflite(made)
    file = tfstruct.to_tflite(made, Recipe(calibration=x, precision="int8"))
    assert not file.report.float_operators


def test_saved_and_loaded(tmp_path):
    model = zoo.build("residual")
    x = zoo.sample_inputs(model, 32)
    made = observed(model, x, Scheme("int8", layers={"conv*": "int8"}))
    made.save(tmp_path / "twin.keras")
    again = keras.models.load_model(tmp_path / "twin.keras")
    assert again.scheme == made.scheme and again.ranges() == made.ranges()
    np.testing.assert_array_equal(again.predict(x, verbose=0), made.predict(x, verbose=0))


def test_before_anything_was_seen_it_computes_in_float_but_for_the_kernels():
    model = zoo.build("conv_bn")
    x = zoo.sample_inputs(model, 8)
    kernels = Twin(model).simulation
    kernels.gated = True
    kernels.active.assign(0.0)
    np.testing.assert_allclose(kernels(x, training=False), model(x, training=False), rtol=1e-4, atol=1e-5)


def test_layers_left_in_float_by_the_scheme():
    model = zoo.build("residual")
    x = zoo.sample_inputs(model, 32)
    name = next(layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    made = observed(model, x, Scheme("int8", layers={name: "float32"}))
    assert name in dict(made.simulation.skipped)
    assert not any(kernel.startswith(f"{name}/") for kernel in made.simulation.grids)


@pytest.mark.parametrize("place", sweep(["first", "middle"], {"middle"}))
def test_floats_between_integers_are_rounded_where_integers_read_them(place, process):
    x = inputs = keras.Input((12, 12, 3), name="image")
    for name in ("first", "middle"):
        x = keras.layers.Conv2D(6, 3, name=name)(x)
        x = keras.layers.MaxPooling2D(2, name=f"{name}_pool")(keras.layers.ReLU(name=f"{name}_relu")(x))
    outputs = keras.layers.Dense(4, name="last")(keras.layers.Flatten(name="flat")(x))
    model = zoo.randomise(keras.Model(inputs, outputs))
    x = zoo.sample_inputs(model, 32)
    made = observed(model, x, Scheme("int8", layers={place: "float32", f"{place}_relu": "float32"}))
    with Converter(made, process=process) as converter:
        file = converter.convert(Recipe())
    operators = flatbuffer.operators(file.content, file.layers)
    assert {op.layers[0] for op in operators if op.is_float and op.weights} == {place}
    ours, theirs = made.predict(x, verbose=0), file.predict(x)
    assert np.abs(ours - theirs).max() <= 2 * (max(ours.max(), 0) - min(ours.min(), 0)) / 255


def test_scheme_as_json():
    scheme = Scheme("int4", layers={"block*": "int8"}, ranges="minmax", momentum=0.9)
    assert Scheme.from_json(scheme.to_json()) == scheme
    assert (scheme.weight_bits("stem"), scheme.weight_bits("block1/conv")) == (4, 8)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Scheme("int7"), "must be one of .*int8"),
        (lambda: Scheme("float32"), "quantizes nothing"),
        (lambda: Scheme("int8", layers={"a": "int16x8"}), "activations of one width"),
        (lambda: Scheme(ranges="guess"), "`ranges` must be one of"),
        (lambda: Scheme(momentum=1.0), r"`momentum` must be a number in \[0, 1\)"),
    ],
)
def test_bad_schemes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
