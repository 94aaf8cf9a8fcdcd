"""`optimize_inference` and `fold_batch_norm` on whole models: equal outputs, nothing left that could go."""

import keras
import numpy as np
import pytest
import zoo
from edit_cases import check, functional, names, outputs_named
from keras import layers
from sweeps import sweep

from tfstruct.errors import ModelError
from tfstruct.surgery import fold_batch_norm, optimize_inference

# The smallest resolution that each class takes; 32 elsewhere.
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
# Larger than others of their family by depth and width alone: minutes and gigabytes each, in float64.
LARGER = (
    "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge", "EfficientNetB7", "EfficientNetV2L", "NASNetLarge",
)  # fmt: skip
APPLICATIONS = sorted(
    name
    for name in dir(keras.applications)
    if name[0].isupper() and callable(getattr(keras.applications, name)) and name not in LARGER
)
# Those in which every batch normalization stands behind a convolution without an activation.
ALL_FOLDED = ("MobileNet", "MobileNetV2", "ResNet50", "ResNet101", "ResNet152", "InceptionV3", "InceptionResNetV2")


NAMES = [n for n in zoo.MODELS if n != "subclassed"]
# Every branch that the others run too.
QUICK = [
    "conv_bn", "depthwise", "residual", "concat", "conv1d", "grouped", "lstm", "attention", "embedding", "nested",
]  # fmt: skip


@pytest.mark.parametrize("name", sweep(NAMES, quick=QUICK))
@pytest.mark.sweep(4)
def test_the_zoo(name):
    model = zoo.build(name)
    made = check(optimize_inference, model, zoo.sample_inputs(model, 3))
    assert outputs_named(made.model) == outputs_named(model)
    if name in ("conv_bn", "residual", "depthwise"):
        assert optimize_inference(made.model).changes == ()


def test_one_edit_makes_room_for_the_next():
    def build(x):
        for i in range(2):
            three = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"three{i}")(x)
            one = layers.Conv2D(8, 1, use_bias=False, name=f"one{i}")(x)
            norms = [layers.BatchNormalization(name=f"norm{j}{i}")(y) for j, y in enumerate((three, one, x))]
            x = layers.ReLU(name=f"relu{i}")(layers.Add(name=f"join{i}")(norms))
        x = layers.Dropout(0.5, name="dropout")(layers.Flatten(name="flat")(x))
        return layers.Dense(3, name="head")(layers.Dense(6, name="hidden")(x))

    model = functional(build, (6, 6, 8))
    made = check(optimize_inference, model)
    assert [n for n in names(made.model) if n != "dropout"] == ["join0", "join1", "flat", "head"]
    assert made.model.get_layer("join0").activation.__name__ == "relu"
    assert made.parameters[1] < 0.9 * made.parameters[0] and made.macs[1] < 0.9 * made.macs[0]
    assert dict(made.changes)["relu0"] == "became the activation of `join0`"


def test_constant_channels_go_too():
    model = zoo.build("conv_bn")
    gamma = model.get_layer("stem_bn").gamma
    gamma.assign(np.where(np.arange(8) < 3, 0.0, gamma))
    model.get_layer("stem_bn").beta.assign(np.full(8, -1.0))
    made = check(optimize_inference, model, zoo.sample_inputs(model, 3))
    assert made.model.get_layer("stem").filters == 5
    assert ("stem", "3 channels without effect removed") in made.changes


def test_redundant_layers_go_first():
    made = optimize_inference(zoo.build("conv_bn"))
    assert made.changes[0] == ("dropout", "Dropout: in training only")
    assert "stem_bn" in [layer for layer, _ in made.changes]


def test_reports_and_bad_input():
    made = optimize_inference(zoo.build("conv_bn"))
    assert made.to_dict()["changes"][-1] == ["stem_relu", "became the activation of `stem`"]
    with pytest.raises(ModelError):
        optimize_inference(zoo.build("subclassed"))


def application(name, size=None, **options):
    keras.utils.set_random_seed(0)
    size = size or SIZES.get(name, 32)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None, **options)
    x = np.random.default_rng(0).uniform(0, 255, (4, size, size, 3))
    return zoo.settle(zoo.randomise(model), x), x


def unfolded(model):
    return [x for x in model._flatten_layers() if isinstance(x, layers.BatchNormalization)]


def check_application(edit, name, **options):
    model, x = application(name, **options)
    # The deepest of these untrained nets answer to the last bit of their input by up to 1e-4.
    y, nudged = (keras.ops.convert_to_numpy(model(z)) for z in (x, x * (1 + 2.0**-52)))
    made = check(edit, model, x, tolerance=max(1e-5, 32 * np.abs(y - nudged).max() / np.abs(y).max()))
    left = unfolded(made.model)
    assert {layer.name for layer in left} <= {path for path, _ in made.skipped}
    if name in ALL_FOLDED:
        assert left == []


@pytest.mark.slow
def test_the_first_blocks_of_mobilenet_v2(float64):
    """With strides, asymmetric padding and two residuals: the whole of it, and all others, by `pytest -m slow`."""
    model, x = application("MobileNetV2", alpha=0.35)
    model = keras.Model(model.input, layers.ReLU(name="end")(model.get_layer("block_4_add").output))
    assert unfolded(check(optimize_inference, model, x).model) == []


@pytest.mark.slow
def test_mobilenet_v2(float64):
    check_application(optimize_inference, "MobileNetV2", size=64, alpha=0.35)


@pytest.mark.slow
def test_resnet50_v2(float64):
    check_application(fold_batch_norm, "ResNet50V2")


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
@pytest.mark.parametrize("edit", [fold_batch_norm, optimize_inference])
def test_all_applications(float64, edit, name):
    check_application(edit, name)
