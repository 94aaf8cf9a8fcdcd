"""Sizes left open: named first by whatever needs them, filled in by one argument, followed into nested models."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import tfstruct
from tfstruct import callbacks, cli, surgery
from tfstruct.convert import Recipe, check_target, measured_latency
from tfstruct.errors import ConversionError, ModelError, TfstructError
from tfstruct.graph import trace
from tfstruct.graph.sizes import open_input

rng = np.random.default_rng(0)
BODY = [("conv", 3), ("inside", 1)]


def image(shape=(None, None, 3), name="image"):
    x = inputs = keras.Input(shape, name=name)
    for path, size in BODY:
        x = layers.Conv2D(8, size, padding="same", name=path)(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.GlobalAveragePooling2D()(x)), name="open")


def steps():
    x = inputs = keras.Input((None, 4), name="steps")
    return keras.Model(inputs, layers.Dense(2)(layers.LSTM(3, name="lstm")(x)), name="open")


def called_on(model, shape):
    """The way out that errors name."""
    x = keras.Input(shape)
    return keras.Model(x, model(x))


MACS = 36 * (27 * 8 + 8 * 8) + 16  # on 6 x 6
NEED = {
    "profile": tfstruct.profile,
    "plan_channels": lambda m: tfstruct.plan_channels(m, {"macs": 0.5}),
    "PruneChannels": lambda m: callbacks.PruneChannels({"macs": 0.5}).attach(m),
    "factorize": lambda m: surgery.factorize(m, macs=0.9),
    "measured_latency": measured_latency,
}


@pytest.mark.parametrize("function", NEED)
def test_the_first_sentence_names_input_dimension_and_argument(function):
    with pytest.raises(TfstructError) as caught:
        NEED[function](image())
    first = str(caught.value).split(". ")[0]
    assert first.startswith("The input 'image' leaves dimensions 0 and 1 of its samples (None, None, 3) open: give ")
    assert re.search(r"input_shapes?=|keras.Input\(shape\); model = keras.Model\(x, model\(x\)\)", first)


def test_the_argument_that_is_named_is_taken():
    shape = (6, 6, 3)
    assert tfstruct.profile(image(), shape).macs == MACS
    assert tfstruct.plan_channels(image(), {"macs": 0.5}, input_shape=shape).before["macs"] == MACS
    assert surgery.factorize(image(), macs=0.9, input_shape=shape).macs[1] <= 0.9 * MACS
    model = image()
    pruning = callbacks.PruneChannels({"macs": 0.5}, input_shape=shape)
    pruning.attach(model)
    assert pruning._planner.before["macs"] == MACS
    callbacks.release(model)


def test_a_file_that_fails_with_open_sizes(process_of):
    x = rng.normal(size=(120, 5, 4)).astype("float32")
    with pytest.raises(ConversionError) as caught:
        process_of(steps(), Recipe("int8", calibration=x))
    assert str(caught.value).startswith(
        "The input 'steps' leaves dimension 0 of its samples (None, 4) open: give input_shapes={'steps': (D0, 4)} "
        "(--input-shape steps=D0,4). With open sizes: "
    )
    fixed = process_of(steps(), Recipe("int8", calibration=x, input_shapes={"steps": (5, 4)}))
    assert not fixed.report.float_operators and fixed.report.verification.outputs[0].sqnr_db > 25


@pytest.fixture
def process_of(process):
    from tfstruct.convert import Converter

    def convert(model, recipe):
        with Converter(model, process=process) as converter:
            return converter.convert(recipe)

    return convert


@pytest.mark.parametrize("kind", ["functional", "sequential", "twice", "deep"])
def test_nested_models_take_the_sizes_of_their_calls(kind):
    inner = keras.Sequential([keras.Input((None, None, 8)), layers.Conv2D(8, 1, name="inside")], name="inner")
    if kind == "deep":
        inner = keras.Sequential([keras.Input((None, None, 8)), inner], name="outer")
    x = layers.Conv2D(8, 3, padding="same", name="conv")(inputs := keras.Input((6, 6, 3)))
    x = inner(x)
    if kind == "twice":
        x = inner(layers.MaxPooling2D(2)(x))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    if kind == "sequential":
        model = keras.Sequential(model.layers)
    whole = MACS + (9 * 64 if kind == "twice" else 0)
    made = tfstruct.profile(model)
    assert made.macs == whole and made.peak_activation_bytes == 2 * 36 * 8 * 4
    plan = tfstruct.plan_channels(model, {"macs": 0.5})
    assert plan.before["macs"] == whole
    smaller = tfstruct.apply(model, plan)
    assert tfstruct.profile(smaller).macs == plan.after["macs"] <= 0.5 * whole


@pytest.mark.parametrize("made", [image, lambda: keras.Sequential([keras.Input((None, None, 3)), image()])])
def test_a_call_on_known_sizes_is_enough(made):
    model = called_on(made(), (6, 6, 3))
    assert tfstruct.profile(model).macs == MACS
    assert tfstruct.plan_channels(model, {"peak_memory": 0.9}).before["macs"] == MACS


def test_work_of_own_layers_inside_a_nested_model_is_counted_on_its_call():
    class Own(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 5))

        def call(self, x):
            return x @ self.kernel

    inner = keras.Sequential([keras.Input((None, 4)), Own(name="own")], name="inner")
    assert tfstruct.profile(called_on(inner, (7, 4))).macs == 7 * 4 * 5


def test_shapes_that_do_not_fit():
    with pytest.raises(ModelError, match=r"`input_shape` of image must fit \(None, None, 3\)"):
        trace(image(), (6, 6, 4))
    x = inputs = keras.Input((None, None, 3), name="image")
    small = keras.Model(inputs, layers.Conv2D(2, 5, name="wide")(x))
    with pytest.raises(ModelError, match=r"`wide` does not take samples of shape \(3, 3, 3\)"):
        trace(small, (3, 3, 3))


def test_how_one_and_several_dimensions_are_written():
    assert "dimension 0 of its samples (None,) open: give input_shapes={'ids': (D0,)}" in open_input("ids", (None,))
    assert "dimensions 0, 1 and 2 of its samples (None, None, None) open" in open_input("x", (None,) * 3)


def test_a_microcontroller_is_told_too():
    (note,) = check_target(image(), "micro", recipe=Recipe("int8")).notes
    assert "no arena figure: The input 'image' leaves dimensions 0 and 1" in note


def test_the_command(tmp_path, capsys):
    model = tmp_path / "steps.keras"
    steps().save(model)
    np.save(tmp_path / "x.npy", rng.normal(size=(20, 5, 4)).astype("float32"))
    arguments = [str(model), "-o", str(tmp_path / "o.tflite"), "--calibration", str(tmp_path / "x.npy"), "--quiet"]
    assert cli.main(arguments) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "leaves dimension 0" in said and "--input-shape steps=D0,4" in said
    assert cli.main([*arguments, "--input-shape", "steps=5,4"]) == cli.FINE
