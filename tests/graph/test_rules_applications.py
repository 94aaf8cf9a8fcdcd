"""The layers of `keras.applications`, image operations, and the rarer layers."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from rule_cases import assert_held, assert_shrinks, groups_of


def stem(width=12, name="stem", shape=(4, 6, 3)):
    inputs = keras.Input(shape)
    return inputs, layers.Conv2D(width, 1, name=name)(inputs)


def head(x):
    return layers.Dense(2, name="head")(x)


def test_scaled_residual():
    inputs, x = stem()
    y = LayerScale(0.5, 12, name="scale")(layers.Conv2D(12, 3, padding="same", name="conv")(x))
    _, _, smaller = assert_shrinks(inputs, head(layers.Add()([x, StochasticDepth(0.2)(y)])), "stem", "conv")
    assert smaller.get_layer("scale").projection_dim < 12


def test_custom_scale():
    inputs, x = stem()
    y = layers.Conv2D(12, 3, padding="same", name="conv")(x)
    assert_shrinks(inputs, head(CustomScaleLayer(0.3)([x, y])), "stem", "conv")


PIXELS = {
    "resizing": lambda x: layers.Resizing(5, 7)(x), "crop": lambda x: layers.CenterCrop(2, 3)(x),
    "flip": lambda x: layers.RandomFlip()(x), "rotation": lambda x: layers.RandomRotation(0.1)(x),
    "resize": lambda x: ops.image.resize(x, (5, 7)), "blur": lambda x: ops.image.gaussian_blur(x),
    "pad": lambda x: ops.image.pad_images(x, 1, 1, 1, 1), "crop images": lambda x: ops.image.crop_images(x, 1, 1, 0, 2),
    "max pool": lambda x: ops.max_pool(x, 2), "average pool": lambda x: ops.average_pool(x, 2, padding="same"),
    "patches": lambda x: ops.image.extract_patches(x, 2),
    "overlapping": lambda x: ops.image.extract_patches(x, (2, 3), 1),
}  # fmt: skip
for _name, _call in {
    "adaptive": lambda x: layers.AdaptiveAveragePooling2D((2, 3))(x),
    "adaptive max": lambda x: layers.AdaptiveMaxPooling2D((2, 3))(x),
    "depth": lambda x: ops.nn.depth_to_space(x, 2), "space": lambda x: ops.nn.space_to_depth(x, 2),
}.items():  # fmt: skip
    _needs = {"adaptive": "AdaptiveAveragePooling2D", "adaptive max": "AdaptiveMaxPooling2D"}.get(_name)
    if hasattr(layers, _needs) if _needs else hasattr(ops.nn, "depth_to_space"):
        PIXELS[_name] = _call


@pytest.mark.parametrize("name", PIXELS)
def test_pixels(name):
    inputs, x = stem()
    assert_shrinks(inputs, head(PIXELS[name](x)), "stem", share=0.5)


def test_depth_to_space_keeps_copies_together():
    if not hasattr(ops.nn, "depth_to_space"):
        pytest.skip("this Keras has none")
    inputs, x = stem()
    x = ops.nn.depth_to_space(x, 2)
    _, _, smaller = assert_shrinks(inputs, head(x), "stem", share=0.34)
    assert smaller.get_layer("stem").filters == 8


def test_colours_stay():
    inputs, x = stem(3)
    assert_held(inputs, head(ops.image.rgb_to_grayscale(x)), "stem", "no rule knows")


@pytest.mark.skipif(not hasattr(layers, "ReversibleEmbedding"), reason="this Keras has none")
@pytest.mark.parametrize("tied", [True, False])
def test_reversible_embedding(tied):
    inputs = keras.Input((5,), dtype="int32")
    embed = layers.ReversibleEmbedding(9, 8, tie_weights=tied, name="embed")
    x = embed(inputs)
    x = layers.Add()([x, layers.Dense(8, name="inner")(x)])
    ids = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 0, 1]], "int32")
    model, _, _ = assert_shrinks(inputs, embed(x, reverse=True), "embed", x=ids)
    assert "inner" in groups_of(model, "embed")[0].makers
