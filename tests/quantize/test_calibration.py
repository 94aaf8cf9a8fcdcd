"""Ranges from data: those of the model's own values, and in the file exactly."""

import keras
import numpy as np
import pytest
import zoo

import tfstruct
from tfstruct.convert import flatbuffer
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.tflite import Converter
from tfstruct.errors import DataError, ModelError
from tfstruct.precisions import CALIBRATORS
from tfstruct.quantize import Scheme, Twin, calibrate
from tfstruct.quantize.calibration import Values
from tfstruct.quantize.calibrators import calibrator_of, usable


@pytest.fixture(scope="module")
def model():
    return zoo.build("conv_bn")


@pytest.fixture(scope="module")
def x(model):
    return zoo.sample_inputs(model, 70)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_ranges_are_those_of_the_models_values(name, model, x):
    made = calibrate(model, x, calibrator=name, percentile=99.0).ranges()
    inner = {"stem_relu": "stem_relu", "conv": "conv", "gap": "gap"}
    values = keras.Model(model.inputs, [model.get_layer(n).output for n in inner])([x])
    for layer, value in zip(["image", *inner], [x, *values], strict=True):
        seen = calibrator_of(name, 99.0)()
        for sample in np.asarray(value):
            seen.update(sample)
        np.testing.assert_allclose(made[layer], usable(*seen.range()), rtol=1e-3, atol=1e-6)
    assert made["head"] == (0.0, 255 / 256) and made["pool"] == made["stem_relu"]


@pytest.mark.parametrize("name", ["several", "nested", "shared", "embedding"])
def test_every_place_of_a_model_gets_a_range(name):
    model = zoo.build(name)
    x = zoo.sample_inputs(model, 9)
    weights = [w.numpy() for w in model.weights]
    simulation = calibrate(model, x, batch_size=4).simulation
    without = [group for group in simulation.groups if simulation.range_of(group) is None]
    assert without == (["ids"] if name == "embedding" else [])  # integers have none
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(weights, model.weights, strict=True))
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_a_shared_layer_sees_all_its_calls():
    inputs = keras.Input((3,))
    layer = keras.layers.Dense(3, activation="relu", name="both")
    model = zoo.randomise(keras.Model(inputs, layer(layer(inputs))))
    x = zoo.sample_inputs(model, 20)
    highest = max(float(np.max(y)) for y in (layer(x), layer(layer(x))))
    assert calibrate(model, x).ranges()["both"] == (0.0, pytest.approx(highest, rel=1e-6))


def test_the_file_has_these_ranges_and_computes_what_the_twin_does(model, x, process):
    made = calibrate(model, x, calibrator="percentile")
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe("int8", ranges=made.ranges()))
    steps = {float(np.float32((high - low) / 255)) for low, high in made.ranges().values()}
    read = flatbuffer.read(file.content)
    kept = [t.quantization.scale for t in read.subgraphs[0].tensors if not flatbuffer.is_constant(read, t)]
    assert len(kept) >= 5
    for (scale,) in kept:
        assert any(scale == pytest.approx(step, rel=1e-6) for step in steps)
    ours, theirs = np.asarray(made(x)), file.predict(x)
    assert np.abs(ours - theirs).max() <= 2 / 256


def test_a_twin_gets_a_new_one_of_its_scheme(model, x):
    first = Twin(model, Scheme("int4", layers={"head": "int8"}))
    second = calibrate(first, x)
    assert second.scheme == first.scheme and second.model is model
    assert second.ranges() and set(first.ranges()) <= {"head"}  # the softmax has its range from the start


def test_data_of_other_kinds_and_progress(model, x):
    import tensorflow as tf

    said = []
    made = calibrate(
        model, tf.data.Dataset.from_tensor_slices((x, np.zeros(70))).batch(16), progress=lambda *a: said.append(a)
    )
    assert made.ranges() == calibrate(model, x).ranges()
    assert said == [("calibrate", n, None) for n in (32, 64, 70)]  # only reading a stream tells
    calibrate(model, x, progress=lambda *a: said.append(a))
    assert said[3:] == [("calibrate", n, 70) for n in (32, 64, 70)]


def test_wrong_arguments(model, x):
    with pytest.raises(ValueError, match="`calibrator` must be one of minmax"):
        calibrate(model, x, calibrator="guess")
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match="`observer` must be one of minmax"):
        calibrate(model, x, observer="guess")  # its former name
    with pytest.raises(DataError, match="not finite for the samples 64 to 70"):
        calibrate(model, np.concatenate([x[:69], x[:1] * np.nan]))
    with pytest.raises(DataError, match="shape"):
        calibrate(model, x[:, :-1])
    with pytest.raises(ModelError, match="subclassed"):
        calibrate(zoo.build("subclassed"), x)
    assert tfstruct.quantize.calibrate is calibrate


@pytest.mark.parametrize("precision", ["int8", "int4", "ternary"])
def test_nothing_is_rounded_and_nothing_decided_where_values_are_looked_at(precision, model, x):
    values = Values(model, Scheme(precision))
    values.of([x[:4]])
    (traced,) = values._run._list_all_concrete_functions()
    kinds = {op.type for op in traced.graph.get_operations()}
    assert "Conv2D" in kinds
    assert not {kind for kind in kinds if "If" in kind or "FakeQuant" in kind or kind in ("Round", "Floor", "SelectV2")}
