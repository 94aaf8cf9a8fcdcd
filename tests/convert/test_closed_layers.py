"""Files of twins with custom layers that stay closed: an operator inside has no range of the layer's result."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import Recipe
from tfstruct.convert.tflite import Converter
from tfstruct.errors import RecipeError
from tfstruct.quantize import calibrate

RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 8)).astype("float32")


class Computes(layers.Layer):
    """A function of the layer and its input, with two weights."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def build(self, shape):
        for name in ("m", "g"):
            setattr(self, name, self.add_weight(shape=shape[-1:], name=name))

    def call(self, x):
        return self.function(self, x)


# Of the first two the last operator becomes part of the Dense behind them.
FUNCTIONS = (
    lambda s, x: (x - s.m) * s.g,
    lambda s, x: x * x * s.g + s.m,
    lambda s, x: (x - s.m) * (x - s.m),
)


@pytest.fixture(scope="module")
def converter(process):
    inputs = keras.Input((8,), name="x")
    outputs = {}
    keras.utils.set_random_seed(0)
    for number, function in enumerate(FUNCTIONS):
        x = Computes(function, name=f"own{number}")(inputs)
        outputs[f"y{number}"] = layers.Dense(6, bias_initializer="ones", name=f"dense{number}")(x)
    model = keras.Model(inputs, outputs)
    for weight in model.weights:
        if weight.name == "m":
            weight.assign(RNG.normal(size=8) + 5)
        elif weight.name == "g":
            weight.assign(RNG.normal(size=8) * 0.05)
    with Converter(calibrate(model, X, open_layers=False), process=process) as converter:
        yield converter


def test_without_data_the_operators_inside_are_refused(converter):
    with pytest.raises(RecipeError, match=r"SUB \(own0\)") as error:
        converter.convert(Recipe())
    assert "own1" in str(error.value)
    assert "`ranges`," not in str(error.value)


def test_with_data_they_have_ranges_of_their_own(converter):
    file, model = converter.convert(Recipe(calibration=X)), converter.model
    got, expected = file.predict(X), model(X)
    for name, y in expected.items():
        y = np.asarray(y)
        assert np.abs(got[name] - y).max() < 0.1 * np.abs(y - y.mean(0)).max(), name
