"""Strides moved to an earlier layer, against models built by hand with the strides there and the same weights."""

import keras
import numpy as np
import pytest
from edit_cases import chain, functional, inputs_of
from keras import layers

import tfstruct
from tfstruct import legacy
from tfstruct.errors import ModelError, PlanError
from tfstruct.surgery import downsample_early


def conv(width, size=3, strides=1, name=None, **options):
    return layers.Conv2D(width, size, strides, options.pop("padding", "same"), name=name, **options)


def check(build, expected, shape=(8, 8, 3), layer=None, moved=None):
    """`build` downsampled early computes what `expected` does with its weights."""
    model = functional(build, shape)
    weights = [w.numpy().copy() for w in model.weights]
    made = downsample_early(model, layer)
    by_hand = functional(expected, shape)
    by_hand.set_weights(weights)
    x = inputs_of(model)
    np.testing.assert_allclose(made.model(x), by_hand(x), rtol=1e-5, atol=1e-5)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(weights, model.weights, strict=True))
    assert made.model.output_shape == model.output_shape and made.macs[1] < made.macs[0]
    assert made.parameters[1] == made.parameters[0]
    assert moved is None or made.details["moved_from"] == moved
    return made


def resnet(stem, block):
    """Strides of the stem and of the block behind it, whose shortcut is a projection."""

    def build(x):
        x = layers.ReLU()(layers.BatchNormalization()(conv(4, strides=stem, name="stem")(x)))
        x = layers.ReLU()(layers.Add()([x, conv(4, name="b")(conv(4, activation="relu", name="a")(x))]))
        y = conv(6, name="d")(conv(6, strides=block, activation="relu", name="c")(x))
        x = layers.Add()([y, conv(6, 1, strides=block, name="shortcut")(x)])
        return layers.Dense(2)(layers.Flatten()(x))

    return build


@pytest.mark.parametrize("shape", [(8, 8, 3), (9, 7, 3)])
def test_through_residual_blocks(shape):
    made = check(resnet(1, 2), resnet(2, 1), shape, moved=["c", "shortcut"])
    assert made.details["layer"] == "stem" and made.details["strides"] == [2, 2]
    assert "stem      strides 1 -> (2, 2)" in str(made)


def test_a_later_layer():
    def build(first, second):
        return lambda x: layers.GlobalAveragePooling2D()(
            conv(4, strides=second, name="b")(
                layers.ReLU()(conv(4, strides=first, name="a")(conv(4, name="stem", strides=1)(x)))
            )
        )

    check(build(1, 2), build(2, 1), layer="a", moved=["b"])


@pytest.mark.parametrize("pool", [layers.MaxPooling2D, layers.AveragePooling2D])
def test_pooling_without_overlap_goes(pool):
    def build(strides, pooled):
        def made(x):
            x = layers.ReLU()(conv(4, strides=strides, name="a")(x))
            return conv(3, name="b")(pool(2, name="pool")(x) if pooled else x)

        return made

    made = check(build(1, True), build(2, False), moved=["pool"])
    assert ("pool", "pooling of (2, 2) taken out") in made.changes


def test_pooling_with_overlap_stays():
    def build(first, second):
        return lambda x: conv(3, name="b")(
            layers.MaxPooling2D(3, second, "same", name="pool")(conv(4, strides=first, name="a")(x))
        )

    check(build(1, 2), build(2, 1), moved=["pool"])


@pytest.mark.parametrize("kind", [layers.Conv2D, layers.DepthwiseConv2D, layers.MaxPooling2D])
def test_padding_layers_become_padding(kind):
    width = () if kind is not layers.Conv2D else (5,)

    def before(x):
        x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(conv(4, name="a", activation="relu")(x))
        return conv(3, name="c")(kind(*width, 3, strides=2, padding="valid", name="b")(x))

    def after(x):
        x = conv(4, strides=2, name="a", activation="relu")(x)
        return conv(3, name="c")(kind(*width, 3, strides=1, padding="same", name="b")(x))

    made = check(before, after, moved=["b"])
    assert "pad" in dict(made.changes)


def test_squeeze_and_excitation_between():
    def build(first, second):
        def made(x):
            x = layers.DepthwiseConv2D(3, first, "same", name="dw")(x)
            s = layers.Reshape((1, 1, 3))(layers.GlobalAveragePooling2D()(x))
            t = keras.ops.mean(x, axis=(1, 2), keepdims=True)
            x = layers.Multiply()([x, layers.Conv2D(3, 1, activation="sigmoid", name="gate")(s + t)])
            return layers.SeparableConv2D(4, 3, second, "same", name="sep")(x)

        return made

    check(build(1, 2), build(2, 1), moved=["sep"])


def test_series():
    def build(first, second):
        return lambda x: layers.Conv1D(4, 5, second, "same", name="b")(
            layers.ReLU()(layers.Conv1D(4, 5, first, "valid", name="a")(x))
        )

    check(build(1, 3), build(3, 1), (20, 2), moved=["b"])


def test_series_that_look_back_only():
    def build(first, second):
        return lambda x: layers.Conv1D(4, 2, second, "causal", name="b")(
            layers.ReLU()(layers.Conv1D(4, 3, first, "causal", name="a")(x))
        )

    check(build(1, 2), build(2, 1), (20, 2), moved=["b"])


def test_the_first_that_can_where_an_earlier_one_cannot():
    """The norm over positions behind `a` shows only when the model is made: `a` stays as it was."""

    def build(x, strides=(1, 2)):
        x = layers.LayerNormalization(axis=(1, 2))(conv(4, name="a")(x))
        return conv(2, strides=strides[1], name="c")(conv(3, strides=strides[0], name="b")(x))

    made = check(build, lambda x: build(x, (2, 1)), moved=["c"])
    assert made.details["layer"] == "b" and made.model.get_layer("a").strides == (1, 1)


def test_into_nested_and_sequential_models():
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.ReLU(name="r"), conv(4, 3, 2, name="c")], name="inner")
    model = chain(conv(4, name="a"), inner, conv(2, name="head"), shape=(8, 8, 3))
    made = downsample_early(model).model
    strides = [made.get_layer("a").strides, made.get_layer("inner").get_layer("c").strides]
    assert isinstance(made, keras.Sequential) and strides == [(2, 2), (1, 1)]
    x = inputs_of(model)
    y = layers.ReLU()(keras.ops.conv(x, model.get_layer("a").kernel, 2, "same") + model.get_layer("a").bias)
    y = keras.ops.conv(y, inner.get_layer("c").kernel, 1, "same") + inner.get_layer("c").bias
    np.testing.assert_allclose(made(x), model.get_layer("head")(y), rtol=1e-5, atol=1e-5)


def test_saved_trained_and_converted(tmp_path):
    made = downsample_early(functional(resnet(1, 2), (8, 8, 3))).model
    made.compile("adam", "mse")
    x = inputs_of(made, 32)
    made.fit(x, np.zeros((32, 2)), verbose=0)
    made.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again(x), made(x), rtol=1e-6)
    assert again.get_layer("stem").strides == (2, 2)
    file = tfstruct.to_tflite(again)
    np.testing.assert_allclose(file.predict(x), made(x), rtol=1e-4, atol=1e-5)


def two_ways(x):
    a = conv(4, name="a")(x)
    return conv(2, strides=2, name="c")(layers.Add(name="join")([a, conv(4, name="b")(x)]))


def two_strides(x):
    a = conv(4, name="a")(x)
    return [conv(4, strides=2, name="b")(a), conv(4, strides=4, name="c")(a)]


def called_twice(x):
    a = conv(3, name="a")
    return conv(2, strides=2)(a(a(x)))


def strided_twice(x):
    c = conv(3, strides=2, name="c")
    return c(c(conv(3, name="a")(x)))


def no_room(x):
    return layers.Conv2D(2, 3, strides=2, name="c")(conv(4, name="a")(x))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda x: layers.Flatten(name="flat")(conv(4, name="a")(x)), "flat .Flatten. makes .* needs all"),
        (two_ways, "join joins what a makes with values at full resolution"),
        (two_strides, r"has strides \(., .\), other layers behind a \(., .\): they cannot move to one layer"),
        (called_twice, "a is called 2 times"),
        (strided_twice, "c, which would lose its strides, is called elsewhere too"),
        (no_room, r"c makes \(3, 3\) positions of \(8, 8\)"),
        (lambda x: layers.GlobalMaxPooling2D()(conv(4, name="a")(x)), "Behind a nothing downsamples"),
        (lambda x: conv(4, name="a")(x), "a makes an output of the model"),
        (lambda x: conv(2)(conv(4, strides=2, name="a")(x)), r"a has strides \(2, 2\) already"),
        (lambda x: conv(2, strides=2)(conv(4, dilation_rate=2, name="a")(x)), "a is dilated"),
        (lambda x: conv(2, strides=2)(layers.Dense(4, name="a")(x)), "a is a Dense. Expected a convolution"),
        *(
            (
                lambda x, kind=kind: conv(2, strides=(2, 1), name="b")(kind(name="a")(x)),
                r"a cannot have the strides of b: .* take equal strides only, not \(2, 1\). Name another",
            )
            for kind in (
                lambda **options: layers.DepthwiseConv2D(3, padding="same", **options),
                lambda **options: layers.SeparableConv2D(4, 3, padding="same", **options),
            )
        ),
        (
            lambda x: conv(2, strides=2)(layers.LayerNormalization(axis=(1, 2), name="n")(conv(4, name="a")(x))),
            "What is behind a cannot work on fewer positions",
        ),
        (
            lambda x: conv(2, strides=2, name="c")(layers.Resizing(8, 8)(conv(4, name="a")(x))),
            r"c would make \(8, 8, 2\) instead of \(4, 4, 2\)",
        ),
    ],
)  # fmt: skip
def test_refused(build, said):
    with pytest.raises(PlanError, match=said):
        downsample_early(functional(build, (8, 8, 3)), "a")


def test_refused_everywhere():
    with pytest.raises(PlanError, match=r"No convolution of .* can downsample earlier. a has strides"):
        downsample_early(functional(lambda x: conv(4, strides=2, name="a")(x)))
    with pytest.raises(PlanError, match="There is none"):
        downsample_early(functional(layers.Dense(2)))
    with pytest.raises(ModelError, match=r"has no layer stm. Did you mean stem"):
        downsample_early(functional(resnet(1, 2), (8, 8, 3)), "stm")


def test_the_shared_model(shared):
    model = legacy.load(shared / "models" / "resnet8_cifar10_jpeg.h5")
    made = downsample_early(model)
    assert made.details["moved_from"] == ["conv2d_3", "conv2d_5"] and made.macs == (12_501_632, 8_630_912)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV2", "EfficientNetB0", "DenseNet121", "VGG16", "Xception"])
def test_applications(name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(80, 80, 3), classes=5)
    made = downsample_early(model)
    assert made.macs[1] < made.macs[0] and made.parameters[1] == made.parameters[0]
    x = np.random.default_rng(0).uniform(0, 255, (2, 80, 80, 3)).astype("float32")
    file = tfstruct.to_tflite(made.model)
    np.testing.assert_allclose(file.predict(x), made.model(x, training=False), rtol=1e-3, atol=1e-4)
