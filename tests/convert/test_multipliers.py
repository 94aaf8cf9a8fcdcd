"""Layers whose values are almost all zero: kernels rescale by a factor that has a limit, beyond which they do not load.

Before, such a file ended the process (XNNPACK, and checks in TensorFlow Lite), or "cannot load" was all that was said.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tfstruct.convert import Converter, Recipe, flatbuffer, multipliers
from tfstruct.errors import ConversionError

KERNELS = {
    "conv": lambda: L.Conv2D(4, 3),
    "depthwise": lambda: L.DepthwiseConv2D(3),
    "transposed": lambda: L.Conv2DTranspose(4, 3),
    "dense": lambda: L.Dense(4),
}
X = np.random.default_rng(0).normal(size=(120, 6, 6, 4)).astype("float32")


def barely_alive(kind: str, largest: float) -> keras.Model:
    """A branch behind a ReLU that no value passes but one, `largest`, in all the data; and one beside it."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 4), name="x")

    def lowered(y):
        return y + (largest - float(keras.Model(inputs, y).predict(X, verbose=0).max()))

    if kind in KERNELS:
        layer = KERNELS[kind]()
        y = layer(inputs)
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, bias - keras.Model(inputs, y).predict(X, verbose=0).max() + largest])
        y = L.ReLU(name="barely")(y)
    elif kind == "sum":
        y = L.ReLU(name="barely")(lowered(inputs + inputs[..., ::-1]))
    elif kind == "product":
        y = L.ReLU(name="barely")(lowered(inputs * inputs[..., ::-1]))
    else:
        y = ops.mean(L.ReLU(name="barely")(lowered(inputs)), axis=(1, 2), keepdims=True)
    dead = L.Dense(3)(L.MaxPooling2D(1)(y)[:, 0, 0])
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(inputs)) + dead)


@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
@pytest.mark.parametrize("kind", [*KERNELS, "sum", "product", "mean"])
@pytest.mark.sweep(5)
def test_it_loads_and_the_rest_is_as_good_as_without(kind, engine, process):
    for largest in (1e-4, 1e-6):
        with Converter(barely_alive(kind, largest), process=process) as converter:
            made = converter.convert(Recipe("int8", calibration=X, engine=engine))
        assert made.report.verification.outputs[0].sqnr_db > 35
        assert not made.report.float_operators
    assert kind == "product" or any("the least for its kernel" in line for line in made.report.rewrites)


def test_the_range_by_hand():
    """max|w| = 127 and an input of 255 steps of 1: a unit is 1, so that 255 steps of 1/127 are the least."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,), name="x"), L.Dense(2, use_bias=False, name="d"), L.Reshape((1, 2))])
    model.layers[0].set_weights([np.float32([[127, 0], [0, 1]])])
    with Converter(model) as converter:
        content, layers = converter.draft(Recipe())
    names = {flatbuffer.operators(content)[0].outputs[0], flatbuffer.operators(content)[-1].outputs[0]}
    ranges = {"x": (0.0, 255.0), **dict.fromkeys(names, (-0.25, 0.75))}
    got, lines = multipliers.bounded(content, ranges, layers, Recipe("int8", calibration=X))
    least = 255 / 127
    for name in names:
        assert got[name] == pytest.approx((-0.25 * least, 0.75 * least))
    assert lines == ["d has a range 2.01 wide, the least for its kernel, in place of 1"]
    wide = {**ranges, **dict.fromkeys(names, (-1.0, 2.0))}
    assert multipliers.bounded(content, wide, layers, Recipe("int8", calibration=X)) == (wide, [])
    kept = Recipe("int8", calibration=X, layers={"d": "float32"})
    assert multipliers.bounded(content, ranges, layers, kept) == (ranges, [])


def test_what_the_interpreter_refuses_is_an_error_not_the_end(process, monkeypatch):
    """A check of a kernel that ends the process: the child's."""
    monkeypatch.setattr(multipliers, "bounded", lambda content, ranges, layers, recipe: (dict(ranges), []))
    crash = pytest.raises(ConversionError, match=r"The interpreter crashed .*in float32")
    with Converter(barely_alive("sum", 1e-6), process=process) as converter, crash:
        converter.convert(Recipe("int8", calibration=X, engine="litert"))
