"""Types of inputs and outputs, and preprocessing as part of an input's scale."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import check_target, verify
from tfstruct.convert import Converter, Recipe
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import RecipeError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 8, 8, 3)).astype("float32")
STEPS = 2.01


def _wide():
    return keras.initializers.RandomNormal(stddev=0.5, seed=1)


def camera(*front, dtype="float32"):
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3), name="image", dtype=dtype)
    y = x
    for layer in front:
        y = layer(y)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", kernel_initializer=_wide(), name="conv")(y)
    y = layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, layers.Dense(4, kernel_initializer=_wide(), name="scores")(y))


def normalized(mean, variance):
    layer = layers.Normalization(axis=None if np.ndim(mean) == 0 else -1, mean=mean, variance=variance, name="norm")
    return layer


FRONTS = {
    "1/255": [lambda: layers.Rescaling(1 / 255, name="norm")],
    "-1 to 1": [lambda: layers.Rescaling(1 / 127.5, offset=-1, name="norm")],
    "normalization": [lambda: normalized(120.0, 3000.0)],
    "two": [lambda: layers.Rescaling(1 / 255, name="first"), lambda: normalized(0.5, 0.04)],
}


def _types(content):
    runtime = Runtime(content)
    return {p.name: p.dtype.name for p in runtime.inputs}, {p.name: p.dtype.name for p in runtime.outputs}


def _difference(file, other, x, output=None):
    """In steps of the output of `other`'s inside."""
    ours, theirs = file.predict(x), other.predict(x)
    ours, theirs = (ours, theirs) if output is None else (ours[output], theirs[output])
    ports = {p.name: p for p in Runtime(file.content).outputs}
    port = ports[output] if output else next(iter(ports.values()))
    return np.abs(ours - theirs).max() / port.scale


@pytest.mark.parametrize("kind", FRONTS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.sweep(3)
def test_pixels_go_in_as_they_are(kind, dtype, process):
    model = camera(*(make() for make in FRONTS[kind]))
    with Converter(model, process=process) as converter:
        floats = converter.convert("int8", calibration=PIXELS, float_io=True, measure_latency=False)
        file = converter.convert("int8", calibration=PIXELS, input_type=dtype, output_type="uint8")
    port = Runtime(file.content).inputs[0]
    least = np.iinfo(dtype).min
    assert (port.dtype.name, port.scale, port.zero_point) == (dtype, 1.0, least)
    # The integers are the pixels, whoever feeds them.
    np.testing.assert_array_equal(port.encode(PIXELS).astype(int) - least, PIXELS.astype(int))
    assert not {"MUL", "ADD", "SUB"} & set(file.report.operator_counts())
    if kind != "1/255":  # which TensorFlow's converter has put into the kernel
        assert any("norm" in line and "folded" in line for line in file.report.rewrites)
    assert any("pixels" in line for line in file.report.rewrites)
    assert file.report.verification.outputs[0].sqnr_db > min(floats.report.verification.outputs[0].sqnr_db - 1, 30)
    assert _difference(file, floats, PIXELS) < STEPS
    assert check_target(file, "edgetpu").fits
    again = verify(model, file.content, PIXELS)
    assert again.outputs == file.report.verification.outputs
    assert all(share.clipped == 0 for share in again.inputs)


def test_the_scale_by_hand(process):
    """(q - z) s with s = 2 / 255 and 0 at 127.5: a whole zero point is half a step away."""
    model = camera(layers.Rescaling(1 / 127.5, offset=-1, name="norm"))
    with Converter(model, process=process) as converter:
        file = converter.convert("int8", calibration=PIXELS, input_type="uint8", measure_latency=False)
    detail = Runtime(file.content)._interpreter.get_input_details()[0]
    scale, zero = detail["quantization"]
    assert scale == pytest.approx(1 / 127.5)
    assert zero in (127, 128)
    q = np.arange(256)
    assert np.abs(scale * (q - zero) - (q / 127.5 - 1)).max() <= 0.501 * scale


def test_what_differs_by_channel_stays(process):
    model = camera(normalized([100.0, 120.0, 130.0], [3000.0, 3500.0, 2500.0]))
    with Converter(model, process=process) as converter:
        floats = converter.convert("int8", calibration=PIXELS, float_io=True, measure_latency=False)
        file = converter.convert("int8", calibration=PIXELS, input_type="uint8", measure_latency=False)
    port = Runtime(file.content).inputs[0]
    assert (port.dtype.name, port.scale, port.zero_point) == ("uint8", 1.0, 0)
    assert any("differs by channel" in line for line in file.report.rewrites)
    assert _difference(file, floats, PIXELS) < STEPS


def read_twice():
    x = keras.Input((8, 8, 3), name="image")
    y = layers.Concatenate()([layers.Rescaling(1 / 127.5, offset=-1, name="norm")(x), x])
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(y))))


@pytest.mark.parametrize(
    "make, what",
    [
        (read_twice, "others read it too"),
        (lambda: camera(layers.Rescaling(-1 / 255, offset=1.0, name="norm")), "not positive"),
        (lambda: camera(layers.Rescaling(1 / 255, offset=1.0, name="norm")), "0 lies outside"),
    ],
    ids=["read twice", "inverted", "without 0"],
)
@pytest.mark.sweep(1)
def test_what_stays_is_said(make, what, process):
    with Converter(make(), process=process) as converter:
        file = converter.convert("int8", calibration=PIXELS, input_type="uint8", measure_latency=False)
    assert any(what in line for line in file.report.rewrites)
    port = Runtime(file.content).inputs[0]
    assert (port.dtype.name, port.scale, port.zero_point) == ("uint8", 1.0, 0)
    assert file.report.verification.outputs[0].sqnr_db > 30


def test_numbers_that_are_no_pixels(process):
    """A scalar Normalization of temperatures: their scale, not that of what it makes of them."""
    x = RNG.normal(20.0, 5.0, (60, 6)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,), name="x"), normalized(20.0, 25.0), layers.ReLU(), layers.Dense(3)])
    with Converter(model, process=process) as converter:
        file = converter.convert("int8", calibration=x, input_type="uint8", measure_latency=False)
    port = Runtime(file.content).inputs[0]
    step = (x.max() - x.min()) / 255
    assert port.scale == pytest.approx(step, rel=0.01)
    assert np.abs(port.decode(port.encode(x)) - x).max() < 1.01 * step
    assert file.report.verification.outputs[0].sqnr_db > 30


def test_a_twin_gives_its_ranges(process):
    from tfstruct.quantize import Scheme, calibrate

    model = camera(layers.Rescaling(1 / 127.5, offset=-1, name="norm"))
    twin = calibrate(model, PIXELS, Scheme("int8"))
    with Converter(twin, process=process) as converter:
        file = converter.convert(input_type="uint8", verification=PIXELS, measure_latency=False)
    port = Runtime(file.content).inputs[0]
    assert (port.dtype.name, port.scale, port.zero_point) == ("uint8", 1.0, 0)
    assert file.report.verification.outputs[0].sqnr_db > 25


def test_pixels_in_8_bits_of_keras(process):
    model = camera(layers.Rescaling(1 / 255, name="norm"), dtype="uint8")
    x = PIXELS.astype("uint8")
    with Converter(model, process=process) as converter:
        file = converter.convert("int8", calibration=x, input_type="uint8", measure_latency=False)
    port = Runtime(file.content).inputs[0]
    assert (port.dtype.name, port.scale, port.zero_point) == ("uint8", 1.0, 0)
    assert file.report.verification.outputs[0].sqnr_db > 30


@pytest.fixture(scope="module")
def two():
    """Two inputs, one of ids besides; three outputs, as a detector has."""
    keras.utils.set_random_seed(0)
    image, sensor = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="sensor")
    ids = keras.Input((2,), dtype="int32", name="ids")
    h = layers.Conv2D(8, 3, strides=2, activation="relu", kernel_initializer=_wide(), name="conv")(image)
    h = layers.Concatenate()(
        [layers.Flatten()(h), layers.Dense(4)(sensor), layers.Flatten()(layers.Embedding(9, 2)(ids))]
    )
    outputs = {
        "boxes": layers.Dense(4, name="boxes")(h),
        "classes": layers.Dense(3, activation="softmax", name="classes")(h),
        "found": layers.Dense(1, activation="sigmoid", name="found")(h),
    }
    x = {
        "image": RNG.normal(size=(40, 8, 8, 3)).astype("float32"),
        "sensor": RNG.normal(size=(40, 4)).astype("float32"),
        "ids": RNG.integers(0, 9, (40, 2)).astype("int32"),
    }
    return keras.Model([image, sensor, ids], outputs), x


@pytest.fixture(scope="module")
def converter(two, process):
    with Converter(two[0], process=process) as running:
        yield running


@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
def test_types_by_name(converter, two, engine):
    x = two[1]
    own = {"calibration": x, "engine": engine, "measure_latency": False}
    floats, plain = converter.convert("int8", float_io=True, **own), converter.convert("int8", **own)
    inputs = {"image": "uint8", "sensor": "float32"}
    outputs = {"boxes": "int16", "classes": "uint8", "found": "float32"}
    recipe = Recipe("int8", calibration=x, input_type=inputs, output_type=outputs, engine=engine)
    assert Recipe.from_json(recipe.replace(calibration=None).to_json()) == recipe
    file = converter.convert(recipe)
    assert _types(file.content) == ({**inputs, "ids": "int32"}, outputs)
    for name in ("boxes", "classes"):
        inside = next(p for p in Runtime(plain.content).outputs if p.name == name)
        assert np.abs(file.predict(x)[name] - floats.predict(x)[name]).max() <= STEPS * inside.scale
    assert np.abs(file.predict(x)["found"] - floats.predict(x)["found"]).max() <= STEPS / 256
    assert file.report.float_operators == ()
    assert file.report.latency
    assert all(op.layers for op in file.report.operators)


@pytest.mark.parametrize("inside", ["int8", "int16x8"])
@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "float32"])
@pytest.mark.sweep(4)
def test_one_type_for_all(converter, two, inside, kind):
    x = two[1]
    plain = converter.convert(inside, calibration=x, measure_latency=False)
    file = converter.convert(inside, calibration=x, input_type=kind, output_type=kind, measure_latency=False)
    inputs, outputs = _types(file.content)
    assert inputs.pop("ids") == "int32"
    assert {*inputs.values(), *outputs.values()} == {kind}
    assert any("ids stays int32" in line for line in file.report.rewrites)
    for ours, before in zip(file.report.verification.outputs, plain.report.verification.outputs, strict=True):
        narrow = inside == "int16x8" and kind in ("uint8", "int8")
        assert ours.sqnr_db > (30 if narrow else before.sqnr_db - 1)


def test_a_layer_in_float_at_the_border_is_not_rounded(two, converter):
    x = two[1]
    kept = {"calibration": x, "layers": {"conv": "float32", "boxes": "float32"}, "measure_latency": False}
    types = {"input_type": {"image": "float32"}, "output_type": {"boxes": "float32"}}
    file = converter.convert("int8", **kept, **types)
    rounded = converter.convert("int8", **kept)
    assert not any("rounded beside" in warning for warning in file.report.warnings)
    assert any("rounded beside" in warning for warning in rounded.report.warnings)
    names = [op.name for op in file.report.operators if "conv" in op.layers]
    assert names.count("CONV_2D") == 1
    assert "DEQUANTIZE" not in names[: names.index("CONV_2D")]


def test_microcontrollers_run_it(process):
    micro = pytest.importorskip("tfstruct.convert.micro")
    if micro.version() is None:
        pytest.skip("tflite-micro is not installed")
    model = camera(layers.Rescaling(1 / 255, name="norm"))
    with Converter(model, process=process) as converter:
        file = converter.convert("int8", calibration=PIXELS, input_type="uint8", output_type="uint8")
    ran = micro.run(file.content, PIXELS.astype("uint8")[:4]).outputs
    port = Runtime(file.content).outputs[0]
    assert np.abs(port.encode(file.predict(PIXELS[:4])).astype(int) - ran[port.name].astype(int)).max() <= 1


@pytest.mark.parametrize(
    "fields, what",
    [
        ({"input_type": "int4"}, "uint8"),
        ({"input_type": {"image": "half"}}, "uint8"),
        ({"float_io": True, "input_type": "uint8"}, "Leave it out"),
    ],
)
def test_recipes_that_contradict_themselves(fields, what):
    with pytest.raises(RecipeError, match=what):
        Recipe("int8", **fields)


@pytest.mark.parametrize(
    "fields, what",
    [
        ({"precision": "float32", "input_type": "uint8"}, "needs activations that are integers"),
        ({"precision": "dynamic", "output_type": {"boxes": "int8"}}, "needs activations that are integers"),
        ({"input_type": {"picture": "uint8"}}, "image"),
        ({"output_type": {"box": "uint8"}}, "boxes"),
        ({"input_type": {"ids": "uint8"}}, "whole numbers"),
    ],
)
def test_what_cannot_be_is_refused_by_name(converter, two, fields, what):
    with pytest.raises(RecipeError, match=what):
        converter.convert(**{"precision": "int8", "calibration": two[1], **fields})


def test_the_note_of_scales_is_not_trusted(process):
    from tfstruct.convert import file_notes, flatbuffer
    from tfstruct.errors import ConversionError

    with Converter(camera(), process=process) as converter:
        content = converter.convert("float32", measure_latency=False).content
    for text in (b"[", b"[]", b'{"image": 3}', b'{"image": [0, 1]}', b'{"image": ["x", 1]}', b"\xff"):
        model = flatbuffer.read(content)
        file_notes.write_note(model, "tfstruct.input_scales", text)
        with pytest.raises(ConversionError, match="note of input scales"):
            Runtime(flatbuffer.write(model))
