"""The twin gives the very integers of the file, also where operators do more than round once."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from test_twin import observed

from tfstruct import Recipe
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.tflite import Converter
from tfstruct.quantize import Scheme, calibrate
from tfstruct.quantize.rescaling import rounded_away, rounded_contraction, rounded_inverse_root, rounded_sum


def two(x):
    return layers.Conv2D(8, 3, padding="same", name="left")(x), layers.Conv2D(8, 1, name="right")(x)


def folded(x):
    """Kernels and biases that lie near halves: among 65,000 some always do."""
    x = layers.Conv2D(128, 1, activation="relu", name="wide")(x)
    return layers.BatchNormalization(name="norm")(layers.Conv2D(512, 1, name="wider")(x))


def before_activation(x):
    x = layers.Conv2D(8, 3, activation="relu", name="first")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    return layers.Conv2D(8, 3, name="second")(x)


def rms(x):
    return x * keras.ops.rsqrt(keras.ops.mean(keras.ops.square(x), axis=-1, keepdims=True) + 1e-3)


def turned(x):
    """A rotary embedding: one layer for two tensors, whose ranges are symmetric by their negative halves."""
    s, angles = keras.Input((8, 8, 8)), np.linspace(0, 3, 64, dtype="float32").reshape(8, 8, 1)
    half = keras.ops.concatenate([-s[..., 4:], s[..., :4]], axis=-1)
    turn = keras.Model(s, s * np.cos(angles) + half * np.sin(angles), name="turn")
    return layers.Concatenate()([turn(part) for part in two(x)])


def dead(x):
    """Channels whose biases do not fit into 32 bits with the steps of their weights."""
    x = layers.ReLU()(layers.BatchNormalization(name="dead_norm")(layers.DepthwiseConv2D(3, name="dead_depthwise")(x)))
    return layers.Conv2D(8, 3, name="dead_conv")(x)


def levels(x):
    """The head of a detector: one for all levels of a pyramid, whose values have other ranges."""
    left, right = two(x)
    head = [layers.Conv2D(8, 3, padding="same", name="head"), layers.Activation("silu"), layers.Dense(4, name="last")]
    made = []
    for level in (left, layers.MaxPooling2D(2)(right), layers.Conv2D(8, 1, name="third")(left)):
        for layer in head:
            level = layer(level)
        made.append(layers.GlobalAveragePooling2D()(level))
    return layers.Concatenate()(made)


def again(x):
    """A block that is called on its own result, as ALBERT's."""
    s = keras.Input((8, 8, 8))
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="inner")(s)
    block = keras.Model(s, layers.Multiply()([layers.Add()([s, y]), layers.Dense(8, activation="sigmoid")(s)]))
    return block(block(block(two(x)[0])))


def handed_on(x):
    """Layers that only move values, each called on tensors of very different ranges, as ESM shares its dropout."""
    drop, turn = layers.Dropout(0.1), layers.Permute((2, 1, 3))
    left, right = two(x)
    small = turn(drop(left))
    large = layers.Conv2D(8, 1, name="large")(turn(drop(layers.Multiply()([right, right]))))
    return layers.Add()([layers.Conv2D(8, 1, name="small")(small), large])


CASES = {
    "layers that move several tensors": handed_on,
    "dead channels": dead,
    "sum": lambda x: layers.ReLU()(layers.Add()(two(x))),
    "difference": lambda x: layers.Subtract()(two(x)),
    "product": lambda x: layers.Multiply()(two(x)),
    "silu": lambda x: layers.Conv2D(8, 3, name="second")(layers.Activation("silu")(two(x)[0])),
    "silu operation": lambda x: keras.ops.silu(two(x)[0]),
    "own silu": lambda x: layers.Conv2D(8, 3, activation="silu", name="only")(x),
    "gate": lambda x: layers.Multiply()([two(x)[0], layers.Conv2D(8, 1, activation="sigmoid", name="gate")(x)]),
    "mean": lambda x: layers.GlobalAveragePooling2D()(two(x)[0]),
    "rotary": turned,
    "root mean square": lambda x: rms(two(x)[0]),
    "one head for several levels": levels,
    "a block several times": again,
    "folded": folded,
    "batch norm before the activation": before_activation,
    "batch norm at the end": lambda x: layers.BatchNormalization(name="norm")(layers.ReLU()(two(x)[0])),
    "batch norm at the start": lambda x: layers.Dense(4)(layers.Flatten()(layers.BatchNormalization(name="norm")(x))),
    "plain batch norm": lambda x: layers.BatchNormalization(scale=False, center=False)(layers.ReLU()(two(x)[0])),
}


def together(names) -> tuple[keras.Model, dict[str, keras.Model]]:
    """A model of several cases, one output each, and the cases by name."""
    inputs = keras.Input((8, 8, 3), name="image")
    parts = {}
    for name in names:
        start = keras.Input((8, 8, 3))
        parts[name] = keras.Model(start, CASES[name](start), name=name.replace(" ", "_"))
    return zoo.randomise(keras.Model(inputs, {part.name: part(inputs) for part in parts.values()})), parts


@pytest.fixture(scope="module")
def steps(process, cases_of_this_run):
    """By case: how far file and twin are apart, in steps of the output. All are in one model, converted once."""
    model, parts = together({name: CASES[name] for name in cases_of_this_run("name")})
    for part in parts.values():
        kill_channels(part)
    x = np.random.default_rng(1).normal(size=(256, 8, 8, 3)).astype("float32")
    made = observed(model, x)
    with Converter(made, process=process) as converter:
        file = converter.convert(Recipe())  # no samples: the twin knows every range
    assert not made.simulation.skipped
    ours, theirs = made.predict(x, verbose=0), file.predict(x)
    scales = {port.name: port.scale for port in Runtime(file.content).outputs}
    return {name: np.abs(ours[part.name] - theirs[part.name]) / scales[part.name] for name, part in parts.items()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sweep(5)
def test_every_integer_is_the_same(name, steps):
    assert np.mean(steps[name] > 0.5) == 0, f"{np.mean(steps[name] > 0.5):.2e} of the values differ"


def kill_channels(model) -> None:
    """Of layers that are called dead: one channel without weights, one with next to none."""
    for layer in model.layers:
        if layer.name.startswith("dead_") and hasattr(layer, "kernel"):
            outputs = (1, 1, -1, 1) if "depthwise" in layer.name else (1, 1, 1, -1)
            channels = layer.kernel.shape[outputs.index(-1)]
            layer.kernel.assign(layer.kernel * np.resize([1.0, 0.0, 1e-7], channels).reshape(outputs))


SCHEMES = [Scheme("int8", per="layer"), Scheme("int8", per="tensor"), Scheme("int4")]
DEAD = [*SCHEMES, Scheme("ternary"), Scheme("int8", steps="learned")]


def test_after_calibration(process):
    """A batch norm that is no part of a layer is a product and a sum: the product's range had no value."""
    model, _ = together(("plain batch norm", "root mean square"))
    data = np.random.default_rng(1).normal(size=(64, 8, 8, 3)).astype("float32")
    twin = calibrate(model, data)
    with Converter(twin, process=process) as converter:
        file = converter.convert(Recipe())
    ours, theirs = twin.predict(data, verbose=0), file.predict(data)
    for port in Runtime(file.content).outputs:
        differ = np.abs(ours[port.name] - theirs[port.name]) > 0.5 * port.scale
        assert differ.mean() < 1e-4, port.name


@pytest.mark.parametrize(
    "scheme, case", [*((scheme, "folded") for scheme in SCHEMES), *((scheme, "dead channels") for scheme in DEAD)]
)
@pytest.mark.sweep(4)
def test_kernels_with_steps_of_other_kinds(scheme, case, process):
    inputs = keras.Input((8, 8, 3), name="image")
    model = zoo.randomise(keras.Model(inputs, CASES[case](inputs)))
    kill_channels(model)
    x = np.random.default_rng(1).normal(size=(64, 8, 8, 3)).astype("float32")
    made = observed(model, x, scheme)
    with Converter(made, process=process) as converter:
        file = converter.convert(Recipe())
    (port,) = Runtime(file.content).outputs
    steps = np.abs(made.predict(x, verbose=0) - file.predict(x)) / port.scale
    # Kernels in 4 bits rescale with factors of 31 bits, of which floats hold 24.
    few = 1e-5 if scheme.precision == "int4" else 0.0
    assert np.mean(steps > 0.5) <= few, f"{np.mean(steps > 0.5):.2e} of the values differ"


def test_sum_in_fixed_point_against_numpy():
    rng = np.random.default_rng(0)
    for s_x, s_y, s in ((0.02, 0.031, 0.047), (0.5, 0.001, 0.3), (0.007, 0.009, 0.0011)):
        q_x, q_y = rng.integers(-255, 256, (2, 5000))
        ratios = np.float32([s_x, s_y]) / np.float32(s)
        shift = 20 - int(np.floor(np.log2(ratios.max())))
        f_x, f_y = (int(np.rint(np.float64(ratio) * 2**shift)) for ratio in ratios)
        for sign in (1, -1):
            wanted = (q_x * f_x + sign * q_y * f_y + 2 ** (shift - 1)) >> shift
            scales = np.float32(s_x), np.float32(s_y)
            values = (np.float32(q) * scale for q, scale in zip((q_x, q_y), scales, strict=True))
            found = rounded_sum(*values, scales, np.float32(s), sign)
            np.testing.assert_array_equal(np.rint(found / np.float32(s)), wanted)


@pytest.mark.parametrize("zero", [0, 3])
def test_products_of_two_tensors_round_once_or_twice_by_the_zero_of_the_second(zero):
    """Against integers: XNNPACK takes a second factor whose integer zero is 0, and rounds once."""
    rng, scale = np.random.default_rng(0), 0.0517
    low, high = (-(128 + zero) * 0.01, (127 - zero) * 0.01)
    total = rng.integers(-12000, 12000, 20000)
    ratio = np.float64(0.02) * np.float64(0.01) / scale
    m, e = np.frexp(ratio)
    high_bits = np.floor(np.abs(total) * m + 0.5)
    twice = np.sign(total) * np.floor(high_bits * 2.0**e + 0.5)
    wanted = twice if zero else np.rint(total * ratio)
    found = rounded_contraction(np.float32(total), np.float32(0.02 * 0.01), np.float32(scale), (low, high))
    differ = np.rint(found / np.float32(scale)) != wanted
    assert (twice != np.rint(total * ratio)).mean() > 1e-3 and differ.mean() < 3e-4  # of which floats hold 24 bits


def test_a_scale_that_is_a_power_of_two():
    """Shares times values that keep their range, 2^-8: halves of the first rounding go up, of the second one away."""
    total, scale = np.arange(-20000, 20000), np.float32(0.0057)
    first = np.trunc((total * 2.0**30 + np.where(total >= 0, 2**30, 1 - 2**30)) / 2**31)
    wanted = np.sign(first) * np.floor(np.abs(first) / 128 + 0.5)
    found = rounded_away(np.float32(total), np.float32(2**-8) * scale, scale)
    np.testing.assert_array_equal(np.rint(found / scale), wanted)


def test_inverse_root_against_integers():
    """In the kernel's order: t = round(2^20 / sqrt(q)), then in fixed point with a factor of 31 bits."""
    for s_x, s in ((0.0254, 0.00376), (0.0232, 0.0036), (0.5, 0.01)):
        s_x, s = np.float32(s_x), np.float32(s)
        q = np.arange(1, 256)
        t = np.floor(2**20 / np.sqrt(q) + 0.5).astype(np.int64)
        m, e = np.frexp(1 / (np.sqrt(np.float64(s_x)) * s))
        once = (t * int(np.rint(m * 2**31)) + 2**30) >> 31
        wanted = (once + (1 << (19 - e))) >> (20 - e)
        found = rounded_inverse_root(q.astype(np.float32) * s_x, s_x, s)
        np.testing.assert_array_equal(np.rint(found / s), wanted)


def test_the_second_factor_of_a_product(process):
    """Around zero, as after tanh, or not: the file's integers either way."""
    inputs = keras.Input((5, 8), name="x")
    keras.utils.set_random_seed(0)
    outputs = {}
    for kind in ("relu", "tanh"):
        x = layers.Dense(8, activation=kind)(inputs)
        t = keras.ops.tanh(x)
        outputs[f"{kind}_second"] = keras.ops.matmul(x, keras.ops.transpose(t, (0, 2, 1)))
        outputs[f"{kind}_first"] = keras.ops.matmul(t, keras.ops.transpose(x, (0, 2, 1)))
    model, x = keras.Model(inputs, outputs), np.random.default_rng(0).normal(size=(256, 5, 8)).astype("float32")
    twin = calibrate(model, x)
    with Converter(twin, process=process) as converter:
        file = converter.convert(Recipe())
    ours, theirs = twin.predict(x, verbose=0), file.predict(x)
    for port in Runtime(file.content).outputs:
        assert np.abs(ours[port.name] - theirs[port.name]).max() < 0.5 * port.scale, port.name
