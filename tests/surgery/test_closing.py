"""Opened layers closed again: made by their own class with other arguments, equal in value, training and gradients."""

import dataclasses
import json
import re

import custom_layers
import keras
import numpy as np
import pytest
from keras import layers, ops
from oracle import assert_equal

import tfstruct
from tfstruct import surgery
from tfstruct.errors import ModelError
from tfstruct.graph.opening.arguments import fitting
from tfstruct.graph.opening.origin import Opened, Origin

# Model -> path of the layer, and its argument that follows the width inside.
CLOSED = {
    "own variables": ("block", "width"),
    "sublayers": ("block", "width"),
    "positions": ("embed", "width"),
    "drop path": ("block", "width"),
    "called twice": ("feed", "width"),
    "sequential": ("feed", "width"),
    "nested model": ("inner/scaled", "width"),
    "time distributed": ("each", "layer.width"),
}
CLASSES = {kind.__name__: kind for kind in (custom_layers.Feed, custom_layers.Positions, custom_layers.DropPath)}


def smaller(name: str) -> keras.Model:
    opened = surgery.open_layers(custom_layers.build(name)).model
    return surgery.apply(opened, surgery.plan_channels(opened, {"macs": 0.6}))


def arrays(outputs) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def layer_at(model, path: str):
    for name in path.split("/"):
        model = model.get_layer(name)
    return model


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.sweep(3)
def test_a_smaller_layer_of_the_users_class(name, tmp_path):
    path, argument = CLOSED[name]
    model = smaller(name)
    x = custom_layers.inputs_of(model)
    before = [w.numpy() for w in model.weights]
    found = surgery.close_layers(model)
    assert list(found.closed) == [path] and not found.kept
    (now,) = [now for said, (_, now) in found.closed[path].items() if said == argument]
    layer = layer_at(found.model, path)
    own = layer.layer if isinstance(layer, layers.TimeDistributed) else layer
    assert type(own).__module__ == "custom_layers" and getattr(own, argument.rpartition(".")[2], now) == now
    assert_equal(arrays(model(x)), arrays(found.model(x)))
    assert len(found.model.weights) == len(before) and found.model.count_params() == model.count_params()
    assert all((a == b.numpy()).all() for a, b in zip(before, model.weights, strict=True))  # it is as it was

    model.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras", custom_objects={"DropPath": custom_layers.DropPath})
    again = surgery.close_layers(loaded, CLASSES)
    assert again.closed == found.closed
    assert_equal(arrays(model(x)), arrays(again.model(x)))
    again.model.compile("sgd", "mse")
    again.model.fit(x, np.zeros(again.model.output_shape and arrays(model(x))[0].shape), verbose=0)


@pytest.mark.parametrize("name", custom_layers.OPENED)
@pytest.mark.sweep(7)
def test_what_was_opened_is_closed_as_it_was(name):
    model = custom_layers.build(name)
    found = surgery.close_layers(surgery.open_layers(model).model)
    x = custom_layers.inputs_of(model)
    assert_equal(arrays(model(x)), arrays(found.model(x)))
    if name in ("cell", "cells", "cell of layers"):
        assert "the cell of a loop stays opened" in found.kept.values()
    elif name == "tied":
        assert "read too (tied/table/embeddings)" in found.kept["tied"]
    else:
        assert found.closed and not found.kept and not any(found.closed.values())
        assert [w.shape for w in model.weights] == [w.shape for w in found.model.weights]


def test_widths_that_no_argument_says_stay_opened():
    model = smaller("attention")  # what comes out is narrower than what comes in
    found = surgery.close_layers(model)
    assert not found.closed
    assert found.kept["block"].startswith("no arguments of Attention make weights of its sizes (block/qkv/kernel (")
    assert "0 layers closed, 1 kept open" in str(found) and found.kept["block"] in str(found)
    x = custom_layers.inputs_of(model)
    assert_equal(arrays(model(x)), arrays(found.model(x)))


def test_an_outer_layer_stays_open_and_inner_ones_close():
    found = surgery.close_layers(smaller("nested"))
    assert list(found.closed) == ["block/first", "block/second", "block/last"] and list(found.kept) == ["block"]


class Two(layers.Layer):
    """Without `get_config`, from an argument that is no plain value."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def get_config(self):
        raise NotImplementedError("not written")

    def call(self, x):
        return ops.tanh(self.inner(x))


class Cut(layers.Layer):
    """Its configuration makes a layer of the same weights that computes otherwise."""

    def __init__(self, sharp=False, **kwargs):
        super().__init__(**kwargs)
        self.sharp = sharp

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, x):
        return ops.matmul(x, self.kernel) * (3.0 if self.sharp else 1.0)

    def get_config(self):
        return {key: value for key, value in super().get_config().items() if key != "sharp"}


@pytest.mark.parametrize(
    "layer, why",
    [
        (lambda: Two(layers.Dense(4)), "its configuration cannot be told (not written)"),
        (lambda: Cut(True), "made again by its class, its outputs for a batch of 4 differ by 6.7e-01 of the largest"),
    ],
)
def test_classes_that_do_not_make_it_again(layer, why):
    inputs = keras.Input((5,))
    made = layer()
    model = custom_layers.randomized(keras.Model(inputs, made(inputs)))
    assert surgery.close_layers(surgery.open_layers(model).model).kept == {made.name: why}


def test_several_numbers_that_make_the_same_sizes():
    """heads * size is 16; only what the values say tells which of the two was cut."""

    def shapes(config, now):
        return ((config["heads"] * config["size"], config["width"] + (2 if now else 3)),)

    config = {"name": "x", "heads": 4, "size": 4, "width": 7, "flag": True}
    found = list(fitting(config, ((16, 10),), ((8, 9),), shapes))
    assert found[:2] == [{("heads",): 2}, {("size",): 2}]
    assert next(fitting(config, ((16, 10),), ((16, 6),), shapes)) == {("width",): 4}


class Heads(layers.Layer):
    """A softmax inside each head: which of heads and size was cut changes the values, not the sizes."""

    def __init__(self, heads=4, size=4, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.size = heads, size
        self.up = layers.Dense(heads * size, name="up")
        self.down = layers.Dense(6, name="down")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((None, self.heads * self.size))

    def call(self, x):
        x = ops.softmax(ops.reshape(self.up(x), (-1, self.heads, self.size)))
        return self.down(ops.reshape(x, (-1, self.heads * self.size)))


def test_values_tell_which_number_was_cut():
    inputs = keras.Input((5,))
    model = custom_layers.randomized(keras.Model(inputs, layers.Dense(2)(Heads(name="heads")(inputs))))
    opened = surgery.open_layers(model).model
    plan = surgery.plan_channels(opened, {"macs": 0.6}, exclude=["heads/down"])
    assert len(plan.keep["heads/up"]) == 9
    closed = surgery.close_layers(surgery.apply(opened, plan)).closed["heads"]
    assert closed == {"heads": (4, 3), "size": (4, 3)}


HOSTILE = {
    "no class": ({"registered_name": "nowhere>Feed", "class_name": "Gone"}, r"^its class Gone is not registered"),
    "a function": ({"registered_name": "builtins>eval", "class_name": "eval"}, "^its class eval is not registered"),
    "an import": (
        {"config": json.dumps({"name": "x", "inner": {"class_name": "system", "module": "os", "config": {}}})},
        "names what is not known here: .*os.system",
    ),
    "a Lambda": (
        {"config": json.dumps({"name": "x", "f": {"class_name": "Lambda", "config": {"name": "code"}}})},
        "names what is not known here: .*Lambda layer 'code'",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_causes_no_code_to_be_imported(name, tmp_path):
    changed, why = HOSTILE[name]
    model = smaller("own variables")
    nested = model.get_layer("block")
    nested.origin = dataclasses.replace(nested.origin, **changed)
    model.save(tmp_path / "hostile.keras")
    loaded = keras.models.load_model(tmp_path / "hostile.keras")
    assert isinstance(loaded.get_layer("block"), Opened) and loaded.get_layer("block").origin.kind is None
    assert re.search(why, surgery.close_layers(loaded).kept["block"])


def test_what_a_file_says_is_data():
    with pytest.raises(ValueError, match="something else"):
        Origin.from_json('{"code": 1}')


def test_a_model_without_opened_layers_comes_back_alike():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    found = surgery.close_layers(model)
    assert not found.closed and not found.kept
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(found.model(x), model(x))
    with pytest.raises(ModelError, match="subclassed"):
        surgery.close_layers(custom_layers.Subclassed())


def test_copies_know_where_they_come_from():
    opened = surgery.open_layers(custom_layers.build("sublayers")).model
    for copy in (keras.models.clone_model(opened), tfstruct.graph.copying.copied(opened)):
        assert isinstance(copy.get_layer("block"), Opened)
    assert copy.get_layer("block").origin == opened.get_layer("block").origin
