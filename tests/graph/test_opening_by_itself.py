"""Models are opened where they enter an analysis: cheaply if there is nothing to open, and never with an error."""

import custom_layers
import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import graph
from tfstruct.errors import ArgumentError, ArgumentTypeError, ModelError
from tfstruct.graph.opening import by_itself, open_by_itself
from tfstruct.graph.rules import registry


class Doubled(layers.Layer):
    def call(self, x):
        return x * 2.0


@graph.rule(Doubled)
def doubled(call):
    return call.input.axes


def never(model):
    raise AssertionError("it was recorded")


@pytest.mark.parametrize("what", ["no custom", "a rule", "a rule in a nested model", "asked not to", "subclassed"])
def test_nothing_to_open_is_not_recorded(what, monkeypatch):
    monkeypatch.setattr(by_itself, "open_model", never)
    layer = {"a rule": Doubled(), "asked not to": custom_layers.Feed()}.get(what, layers.ReLU())
    if what == "a rule in a nested model":
        layer = keras.Sequential([keras.Input((8,)), Doubled()])
    model = custom_layers.Subclassed() if what == "subclassed" else custom_layers._vector(layer)
    found = open_by_itself(model, False if what == "asked not to" else "auto")
    assert found.model is model and (found.opened, found.closed) == ((), {})


def test_nothing_is_opened_where_all_has_been():
    model = custom_layers.build("sublayers")
    with by_itself.no_more_opening():
        assert open_by_itself(model).model is model
    assert open_by_itself(model).opened == ("block",)


def test_what_cannot_be_opened_is_said(monkeypatch):
    model = custom_layers._vector(custom_layers.RawTensorFlow(name="raw"))
    found = open_by_itself(model)
    assert found.model is model and list(found.closed) == ["raw"] and "custom_layers.py" in found.closed["raw"]
    model = custom_layers._vector(custom_layers.Nested(name="block"), custom_layers.Scaled(8, name="scaled"))
    for error, said in ((ModelError("It has LoRA weights."), "LoRA"), (KeyError("bug"), "KeyError: 'bug'")):

        def fails(model, error=error):
            raise error

        monkeypatch.setattr(by_itself, "open_model", fails)
        found = open_by_itself(model)
        assert found.model is model and list(found.closed) == ["block", "scaled"] and said in found.closed["block"]


@pytest.mark.parametrize("wrong", [True, None, "no", 0])
def test_other_arguments(wrong):
    with pytest.raises(ArgumentError, match="`open_layers` must be 'auto'"):
        open_by_itself(custom_layers.build("sublayers"), wrong)
    with pytest.raises(ModelError, match=r"Expected a keras\.Model"):
        open_by_itself("model.keras")


def test_compiled_as_the_original_and_frozen_alike():
    model = custom_layers.build("sublayers")
    model.get_layer("first").trainable = False
    model.get_layer("block").up.trainable = False
    model.compile("adam", "mse", metrics=["mae"])
    x = custom_layers.inputs_of(model)
    model.fit(x, np.zeros((len(x), 3)), verbose=0)
    opened = open_by_itself(model).model
    assert opened.optimizer is model.optimizer and opened.loss == "mse"
    assert {id(v) for v in opened.trainable_variables} == {id(v) for v in model.trainable_variables}
    y = np.ones((len(x), 3))
    assert opened.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)
    before = [v.numpy() for v in model.trainable_variables]
    opened.fit(x, y, verbose=0)  # with the optimizer that the original has trained with
    assert all(np.abs(v.numpy() - old).max() > 0 for v, old in zip(model.trainable_variables, before, strict=True))


class Shifted(layers.Layer):
    """A layer that does not know the length of what it returns."""

    def call(self, x):
        return x[:, 1:] + 0.0

    def compute_output_spec(self, x):
        return keras.KerasTensor((None, None, x.shape[-1]), x.dtype)


@pytest.mark.parametrize(("labelled", "fits"), [(5, True), (4, True), (None, True), (3, False)])
def test_rules_may_label_axes_of_open_sizes(labelled, fits):
    """A rule may know a size that the layer leaves open; what the layer says is checked."""

    @graph.rule(Shifted)
    def shifted(call):
        length = None if labelled is None else call.fresh(labelled, "length")
        return (None, length, call.input.axes[-1] if fits else call.fresh(labelled, "channels"))

    try:
        model = keras.Model(x := keras.Input((5, 4)), Shifted()(x))
        if fits:
            assert graph.trace(model).calls[0].shapes[0][2] == 4
        else:
            with pytest.raises(
                ArgumentTypeError, match=r"labelled axes of sizes \[None, 3, 3\]; the output's shape is"
            ):
                graph.trace(model)
    finally:
        del registry._RULES[Shifted]
