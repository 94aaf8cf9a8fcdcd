"""Calibration data of the wrong scale is found before it makes a bad file."""

import keras
import numpy as np
import pytest
import zoo

from tfstruct.convert.export import signature_of
from tfstruct.convert.scale_check import check_scale
from tfstruct.errors import DataError
from tfstruct.samples import Sample


@pytest.fixture(scope="module")
def trained():
    """A network whose batch norm has seen pixels of 0..255."""
    model = zoo.build("conv_bn")
    pixels = np.random.default_rng(0).uniform(0, 255, (256, 12, 12, 3)).astype("float32")
    model.get_layer("stem_bn").momentum = 0.5
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 0.0
    model.fit(pixels, np.zeros(256), batch_size=32, verbose=0)
    return model, pixels


def _samples(x):
    return [Sample({"image": one}, None) for one in x[:16]]


def test_the_training_scale_is_taken(trained):
    model, pixels = trained
    for factor in (0.3, 1.0, 3.0):
        check_scale(model, signature_of(model), _samples(pixels * factor))
    assert not any("call" in layer.__dict__ for layer in model.layers)


@pytest.mark.parametrize("factor", [1 / 255, 255.0])
def test_another_scale_is_refused(trained, factor):
    model, pixels = trained
    with pytest.raises(DataError, match=r"at 'stem_bn' their spread is .* in training it was .*--scale"):
        check_scale(model, signature_of(model), _samples(pixels * factor))
    assert not any("call" in layer.__dict__ for layer in model.layers)


def test_constant_data_is_not_judged(trained):
    model, pixels = trained
    check_scale(model, signature_of(model), _samples(np.full_like(pixels, pixels.mean())))


def test_an_untrained_batch_norm_says_nothing():
    model = zoo.MODELS["conv_bn"]()
    check_scale(model, signature_of(model), _samples(np.full((4, 12, 12, 3), 1e4, "float32")))


def test_a_leading_rescaling_expects_pixels():
    inputs = keras.Input((4, 4, 3), name="image")
    model = keras.Model(inputs, keras.layers.Rescaling(1 / 255, name="rescale")(inputs))
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 4, 4, 3)).astype("float32")
    check_scale(model, signature_of(model), _samples(pixels))
    with pytest.raises(DataError, match=r"'rescale' rescales inputs by 1/255.* --scale 255"):
        check_scale(model, signature_of(model), _samples(pixels / 255))


def test_integer_inputs_are_not_judged():
    model = zoo.build("embedding")
    check_scale(model, signature_of(model), [Sample({"ids": np.zeros(7, "int32")}, None)])


def test_fixed_batch_size():
    inputs = keras.Input(batch_shape=(4, 12, 12, 3), name="image")
    model = zoo.build("conv_bn")
    wrapped = keras.Model(inputs, model(inputs))
    x = np.random.default_rng(0).normal(size=(3, 12, 12, 3)).astype("float32")
    with pytest.raises(DataError, match="conv_bn/stem_bn"):
        check_scale(wrapped, signature_of(wrapped), _samples(x * 1e4))


def test_nothing_runs_behind_the_layer_that_is_asked(trained):
    """In a deep network the rest is nearly all of the work, and of the memory."""
    called = []
    model, pixels = trained

    def noted(x):
        called.append(len(x))
        return x

    inputs = keras.Input((12, 12, 3), name="image")
    x = model.get_layer("stem_bn")(model.get_layer("stem")(inputs))
    model = keras.Model(inputs, keras.layers.Lambda(noted, output_shape=lambda shape: shape)(x))
    called.clear()
    check_scale(model, signature_of(model), _samples(pixels))
    assert not called
    with pytest.raises(DataError, match="at 'stem_bn'"):
        check_scale(model, signature_of(model), _samples(pixels / 255))
    assert not called and not any("call" in layer.__dict__ for layer in model.layers)


def test_pixels_that_nobody_scaled_are_told_where_the_model_says_nothing():
    def model(*first):
        layers = [keras.Input((4, 4, 3), name="image"), *first, keras.layers.Conv2D(2, 3)]
        return keras.Sequential(layers)

    def told(model, x, as_is=True):
        return check_scale(model, signature_of(model), _samples(x), as_is=as_is)

    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3)).astype("float32")
    (line,) = told(model(), pixels)
    assert "'image' takes pixels as they are, 0 to 2" in line and "--scale 1/255" in line
    assert told(model(keras.layers.ZeroPadding2D()), pixels)
    assert not told(model(), pixels, as_is=False) and not told(model(), pixels / 255)
    for scaling in (keras.layers.Rescaling(1 / 255), keras.layers.Normalization(mean=1.0, variance=2.0)):
        assert not told(model(scaling), pixels)
    inputs = keras.Input((4, 4, 3), name="image")
    assert not told(keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs / 255.0)), pixels)
