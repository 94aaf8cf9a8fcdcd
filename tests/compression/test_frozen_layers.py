"""Frozen layers in `compress`: their channels stay, whether channels go at once or while training, and it is said."""

import types

import keras
import numpy as np
import pytest

from tfstruct.compression.steps import PruneChannels
from tfstruct.errors import RecipeError

L = keras.layers


def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8,))
    x = L.Dense(12, activation="relu", name="one")(x)
    x = L.Dense(12, activation="relu", name="two")(x)
    x = L.Dense(12, activation="relu", name="frozen", trainable=False)(x)
    x = L.Dense(12, activation="relu", name="last")(x)
    return keras.Model(inputs, L.Dense(4, name="out")(x))


def work(original):
    task = types.SimpleNamespace(some_data=None, aim=types.SimpleNamespace(loss="mse"), latency_of=None)
    return types.SimpleNamespace(
        model=original, seed=0, task=task, recalibrate=lambda made: None, once=lambda name, make: make()
    )


def test_at_once():
    original = model()
    done = PruneChannels(budget=0.5, epochs=0).run(work(original))
    assert {layer.name: layer.units for layer in done.model.layers if hasattr(layer, "units")} == {
        "one": 6, "two": 12, "frozen": 12, "last": 6, "out": 4,
    }  # fmt: skip
    for a, b in zip(done.model.get_layer("frozen").weights, original.get_layer("frozen").weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert not done.model.get_layer("frozen").trainable
    assert dict(done.skipped) == {
        "two": "frozen (trainable=False): frozen", "frozen": "frozen (trainable=False): frozen",
    }  # fmt: skip
    asked = PruneChannels(budget=0.5, epochs=0, frozen=True).run(work(original))
    assert asked.model.get_layer("frozen").units == 6 and not asked.skipped


def test_widths_of_frozen_layers_stay():
    done = PruneChannels(widths={"one": 5, "two": 4}, epochs=0).run(work(model()))
    assert {name: done.model.get_layer(name).units for name in ("one", "two", "last")} == {
        "one": 5, "two": 12, "last": 12,
    }  # fmt: skip
    assert dict(done.changes)["one"] == "12 -> 5 channels"
    assert dict(done.skipped) == {"two": "frozen (trainable=False): frozen"}
    asked = PruneChannels(widths={"two": 4}, epochs=0, frozen=True).run(work(model()))
    assert asked.model.get_layer("two").units == 4 and not asked.skipped
    # An earlier step may have left fewer.
    done = PruneChannels(widths={"one": 20, "last": 6}, epochs=0).run(work(model()))
    assert done.skipped == [("one", "it has 12 channels; 20 may stay")]
    assert done.model.get_layer("one").units == 12 and done.model.get_layer("last").units == 6
    with pytest.raises(RecipeError, match="takes `budget` or `widths`"):
        PruneChannels(budget=0.5, widths={"one": 5})
