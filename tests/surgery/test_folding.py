"""`fold_batch_norm`: the same function without batch normalizations, wherever it can be had exactly."""

import edit_cases
import keras
import numpy as np
import pytest
import zoo
from edit_cases import check, functional
from keras import layers
from sweeps import sweep

from tfstruct.convert.draft import draft
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ModelError
from tfstruct.surgery import fold_batch_norm

norm = layers.BatchNormalization
# The recurrent ones are in test_optimize_inference.
NAMES = [n for n in zoo.MODELS if n not in ("subclassed", "lstm", "gru", "bidirectional")]


def chain(*parts, **options):
    """With an end, as an output of the model keeps its name."""
    return edit_cases.chain(*parts, layers.Activation("linear", name="end"), **options)


def names(model):
    return [name for name in edit_cases.names(model) if name != "end"]


def norms(model):
    return [x.name for x in model._flatten_layers() if isinstance(x, norm)]


def unshifted(model):
    """Batch normalizations that only scale."""
    for layer in model._flatten_layers():
        if isinstance(layer, norm):
            layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
            layer.beta.assign(np.zeros(layer.beta.shape))
    return model


@pytest.mark.parametrize("name", sweep(NAMES, quick=["conv_bn", "depthwise", "embedding", "nested"]))
def test_the_zoo(name):
    model = zoo.build(name)
    made = check(fold_batch_norm, model, zoo.sample_inputs(model, 3))
    assert norms(made.model) == []
    assert set(names(made.model)) == set(names(model)) - set(norms(model))
    assert isinstance(made.model, keras.Sequential) == isinstance(model, keras.Sequential)


SPATIAL = {
    "conv": lambda **k: layers.Conv2D(6, 3, **k),
    "strided": lambda **k: layers.Conv2D(6, 3, strides=2, **k),
    "dilated": lambda **k: layers.Conv2D(6, 3, dilation_rate=2, **k),
    "grouped": lambda **k: layers.Conv2D(6, 3, groups=2, **k),
    "by channel": lambda **k: layers.Conv2D(8, 3, groups=4, **k),
    "depthwise": lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=2, **k),
    "separable": lambda **k: layers.SeparableConv2D(6, 3, depth_multiplier=2, **k),
    "transposed": lambda **k: layers.Conv2DTranspose(6, 3, strides=2, **k),
    "1x1 transposed": lambda **k: layers.Conv2DTranspose(6, 1, **k),
    "1x1": lambda **k: layers.Conv2D(6, 1, strides=2, **k),
}
OTHER = {
    "dense": ((4,), lambda **k: layers.Dense(6, **k)),
    "dense 3": ((5, 4), lambda **k: layers.Dense(6, **k)),
    "conv1d": ((9, 4), lambda **k: layers.Conv1D(6, 3, strides=2, **k)),
    "transposed 1d": ((9, 4), lambda **k: layers.Conv1DTranspose(6, 3, **k)),
    "depthwise 1d": ((9, 4), lambda **k: layers.DepthwiseConv1D(3, **k)),
    "separable 1d": ((9, 4), lambda **k: layers.SeparableConv1D(6, 3, **k)),
    "conv3d": ((5, 5, 5, 4), lambda **k: layers.Conv3D(6, 3, groups=2, **k)),
    "transposed 3d": ((3, 3, 3, 4), lambda **k: layers.Conv3DTranspose(6, 2, **k)),
}


# Each kind once, with one padding and the other in turn.
KINDS = [(kind, *options) for kind in SPATIAL for options in (("valid", False), ("same", True))]
QUICK = [*(KINDS[2 * i + i % 2] for i in range(len(SPATIAL))), ("depthwise", "valid", False)]


@pytest.mark.parametrize("kind, padding, bias", sweep(KINDS, quick=QUICK))
@pytest.mark.sweep(5)
def test_behind_and_before_every_convolution(kind, padding, bias):
    make = SPATIAL[kind]
    made = check(fold_batch_norm, chain(make(padding=padding, use_bias=bias, name="conv"), norm()))
    assert names(made.model) == ["conv"] and made.skipped == ()

    before = chain(norm(name="norm"), make(padding=padding, use_bias=bias, name="conv"))
    exact = "1x1" in kind or (padding == "valid" and kind != "transposed")
    made = check(fold_batch_norm, before)
    assert (names(made.model) == ["conv"]) == exact
    assert exact or "pads its input" in dict(made.skipped)["norm"]
    made = check(fold_batch_norm, unshifted(before))
    assert names(made.model) == ["conv"] and (made.model.get_layer("conv").bias is not None) == bias


@pytest.mark.parametrize("kind", OTHER)
def test_other_ranks(kind):
    shape, make = OTHER[kind]
    made = check(fold_batch_norm, chain(make(use_bias=False, name="it"), norm(), shape=shape))
    assert names(made.model) == ["it"]
    made = check(fold_batch_norm, chain(norm(), make(name="it"), shape=shape))
    assert (names(made.model) == ["it"]) == ("transposed" not in kind)


@pytest.mark.parametrize(
    "equation, shape, bias_axes, axis, behind",
    [
        ("abc,cd->abd", (None, 7), "d", -1, True),
        ("abc,cd->abd", (None, 7), None, -1, True),
        ("abc,cde->abde", (None, 2, 3), "de", -1, True),
        ("abc,cde->abde", (None, 2, 3), "de", -2, True),
        ("abc,cde->abde", (None, 2, 3), None, -2, True),
        ("abc,cde->abde", (None, 2, 3), "e", -2, False),
        ("...x,xy->...y", (7,), "y", -1, True),
        ("...x,xy->...y", (7,), None, -1, True),
        ("abc,bcd->abd", (5, 7), None, -1, True),
        ("abc,bcd->abd", (5, 7), "d", -1, True),
    ],
)
def test_einsums(equation, shape, bias_axes, axis, behind):
    def make():
        return layers.EinsumDense(equation, shape, bias_axes=bias_axes, name="it")

    made = check(fold_batch_norm, chain(make(), norm(axis=axis), shape=(5, 4)))
    assert (names(made.model) == ["it"]) == behind
    made = check(fold_batch_norm, chain(norm(), make(), shape=(5, 4)))
    # The shift needs a bias with all the axes of the result that the kernel has.
    needs = set(equation.split(",")[1].split("->")[0]) & set(equation.split("->")[1])
    assert (names(made.model) == ["it"]) == (needs <= set(bias_axes or needs))


def test_asymmetric_padding():
    parts = [layers.ZeroPadding2D(((1, 0), (0, 1))), layers.Conv2D(5, 3, strides=2, name="conv"), norm()]
    assert len(names(check(fold_batch_norm, chain(*parts)).model)) == 2
    model = chain(norm(name="norm"), layers.ZeroPadding2D(((1, 0), (0, 1))), layers.Conv2D(5, 3, name="conv"))
    assert "ZeroPadding2D" in dict(check(fold_batch_norm, model).skipped)["norm"]
    assert len(check(fold_batch_norm, unshifted(model)).changes) == 1


def test_outputs_keep_their_names():
    def build(x):
        y = layers.Conv2D(4, 3, name="conv")(x)
        z = layers.MaxPooling2D(2, name="pool")(layers.Conv2D(4, 3, name="other")(x))
        return [norm(name="named")(y), norm(name="pooled")(z)]

    made = check(fold_batch_norm, functional(build))
    assert made.model.output_names == ["named", "pooled"] and norms(made.model) == ["pooled"]
    assert "an output of the model is named after `pooled`" in dict(made.skipped)["pooled"]


def test_before_and_behind_at_once():
    made = check(fold_batch_norm, chain(norm(), layers.Conv2D(5, 3, use_bias=False, name="conv"), norm(), norm()))
    assert names(made.model) == ["conv"] and len(made.changes) == 3


@pytest.mark.parametrize(
    "between",
    [
        [layers.Dropout(0.5)],
        [layers.AveragePooling2D(2, padding="same")],
        [layers.MaxPooling2D(2)],
        [layers.UpSampling2D(2, interpolation="bilinear")],
        [layers.Cropping2D(1)],
        [layers.GlobalAveragePooling2D()],
        [layers.GlobalMaxPooling2D(keepdims=True), layers.Dropout(0.1)],
    ],
)
def test_across_layers_that_commute(between):
    model = chain(layers.Conv2D(4, 3, name="conv"), *between, norm())
    assert norms(check(fold_batch_norm, model).model) == []
    between = [type(x).from_config(x.get_config()) for x in between]
    model = chain(norm(), *between, layers.Flatten(), layers.Dense(3, name="dense"))
    assert norms(check(fold_batch_norm, model).model) == []


def test_a_negative_scale_does_not_cross_a_maximum():
    model = chain(layers.Conv2D(4, 3, name="conv"), layers.MaxPooling2D(2, name="max"), norm(name="norm"))
    gamma = model.get_layer("norm").gamma
    gamma.assign(-gamma)
    assert "`max` (MaxPooling2D)" in dict(check(fold_batch_norm, model).skipped)["norm"]


def test_another_axis_than_the_channels():
    for parts in (
        [layers.Conv2D(4, 3, name="conv"), norm(axis=1, name="norm")],
        [norm(axis=1, name="norm"), layers.Conv2D(4, 3, name="conv")],
        [layers.Conv2D(4, 3), layers.MaxPooling2D(1), norm(axis=1, name="norm"), layers.ReLU()],
    ):
        made = check(fold_batch_norm, chain(*parts))
        assert "axis" in dict(made.skipped)["norm"]
    # Flattened, each position has its own factor.
    assert norms(check(fold_batch_norm, chain(norm(axis=1), layers.Flatten(), layers.Dense(3))).model) == []


def test_activations_between_stay():
    model = chain(
        layers.Conv2D(4, 3, activation="relu", name="conv"), norm(name="a"), layers.ReLU(name="relu"), norm(name="b")
    )
    made = check(fold_batch_norm, model)
    assert made.changes == () and "has the activation relu" in dict(made.skipped)["a"]
    assert dict(made.skipped)["b"] == "it reads `relu` (ReLU); `end` (Activation) reads `b`"


def test_several_outputs_and_readers():
    def build(x):
        y = layers.Conv2D(4, 3, name="conv")(x)
        z = norm(name="norm")(y)
        return [y, layers.Conv2D(3, 1, name="one")(z), layers.Conv2D(3, 3, name="two")(z)]

    made = check(fold_batch_norm, functional(build))
    assert dict(made.changes) == {"norm": "folded into `two`, `one` behind it"}

    def other(x):
        y = layers.Conv2D(4, 3, name="conv")(x)
        return [norm(name="norm")(y), layers.ReLU(name="relu")(y)]

    made = check(fold_batch_norm, functional(other))
    assert "`conv` is read by" in dict(made.skipped)["norm"]


@pytest.mark.parametrize("case", ["both", "norm", "conv", "half"])
def test_shared_layers(case):
    conv, shared_norm = layers.Conv2D(4, 3, name="conv"), norm(name="norm")

    def build(x):
        first = conv(x)
        second = conv(layers.ReLU()(x)) if case != "norm" else layers.Conv2D(4, 3, name="conv2")(x)
        if case == "conv":
            return [norm(name="norm")(first), norm(name="norm2")(second)]
        return [shared_norm(first), second if case == "half" else shared_norm(second)]

    made = check(
        fold_batch_norm, functional(lambda x: [layers.ReLU(name=f"end{i}")(y) for i, y in enumerate(build(x))])
    )
    assert norms(made.model) == {"both": [], "norm": [], "conv": ["norm", "norm2"], "half": ["norm"]}[case]
    if case in ("conv", "half"):
        assert "`conv` is" in dict(made.skipped)["norm"]


def test_across_the_border_of_a_nested_model():
    inner = keras.Sequential([keras.Input((9, 9, 4)), layers.Conv2D(4, 3, padding="same", name="conv")], name="inner")
    alone = keras.Sequential([keras.Input((9, 9, 4)), norm(name="norm")], name="alone")
    model = functional(lambda x: layers.ReLU(name="relu")(alone(inner(x))))
    made = check(fold_batch_norm, model)
    assert made.changes == (("alone/norm", "folded into `inner/conv` before it"),)
    twice = functional(lambda x: alone(inner(layers.ReLU()(alone(inner(x))))))
    assert norms(check(fold_batch_norm, twice).model) == []


def test_statistics_of_the_batch_stay():
    def build(x):
        return norm(name="norm")(layers.Conv2D(4, 3, name="conv")(x), training=True)

    made = fold_batch_norm(functional(build))
    assert "training=True" in dict(made.skipped)["norm"]


def test_open_sizes_and_dtypes():
    model = chain(layers.Conv2D(4, 3, padding="same"), norm(), shape=(None, None, 4))
    made = check(fold_batch_norm, model)
    assert norms(made.model) == [] and made.macs is None
    half = chain(layers.Conv2D(4, 3, dtype="mixed_float16", name="conv"), norm(name="norm"))
    assert "computes in float16" in dict(fold_batch_norm(half).skipped)["norm"]


def test_no_scale_no_center_and_frozen_layers():
    model = chain(layers.Conv2D(4, 3, trainable=False, name="conv"), norm(scale=False, center=False))
    made = check(fold_batch_norm, model)
    assert norms(made.model) == [] and not made.model.get_layer("conv").trainable


def test_reports_and_bad_input():
    made = fold_batch_norm(zoo.build("conv_bn"))
    assert "stem_bn" in str(made) and made.to_dict()["changes"] == [["stem_bn", "folded into `stem` before it"]]
    assert made.parameters == (1189, 1165)
    with pytest.raises(ModelError):
        fold_batch_norm(zoo.build("subclassed"))


def test_the_folded_model_as_a_file(process):
    content, _ = draft(fold_batch_norm(zoo.build("conv_bn")).model, process=process)
    runtime = Runtime(content)
    assert runtime.inputs[0].dtype == np.int8
