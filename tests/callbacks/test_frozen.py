"""Frozen layers under Prune, PruneChannels and Cluster: left alone unless asked for, and the report says so."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import L, data, fit

from tfstruct import surgery
from tfstruct.callbacks import Cluster, Prune, PruneChannels
from tfstruct.errors import ModelError
from tfstruct.schedules import PolynomialRatio

MAKERS = {
    "Prune": lambda **more: Prune(0.5, **more),
    "PruneChannels": lambda **more: PruneChannels(0.5, frequency=1, **more),
    "Cluster": lambda **more: Cluster(4, **more),
}


def network(freeze: str) -> keras.Model:
    """dense one - batch norm - block of two and three - four; `freeze` says how two, three and `norm` are frozen."""
    keras.utils.set_random_seed(0)
    off = {"trainable": False} if freeze == "constructor" else {}
    two, three = L.Dense(12, activation="relu", name="two", **off), L.Dense(12, name="three", **off)
    block = keras.Sequential([keras.Input((12,)), two, three], name="block")
    x = inputs = keras.Input((8,))
    x = L.Dense(12, activation="relu", name="one")(x)
    x = L.Dense(12, activation="relu", name="first")(x)
    x = L.BatchNormalization(name="norm", **off)(block(x))
    x = L.Dense(12, activation="relu", name="last")(L.ReLU()(x))
    model = keras.Model(inputs, L.Dense(4, name="out")(x))
    model.get_layer("norm").moving_mean.assign(np.linspace(-1, 1, 12))
    if freeze == "parent":
        block.trainable = model.get_layer("norm").trainable = False
    if freeze == "layer":
        for layer in (*block.layers, model.get_layer("norm")):
            layer.trainable = False
    if freeze == "weight":
        for v in (*block.weights, *model.get_layer("norm").trainable_variables):
            v.trainable = False
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    return model


def frozen_of(model) -> dict[str, np.ndarray]:
    layers = [*model.get_layer("block").layers, model.get_layer("norm")]
    return {f"{layer.name}/{v.name}": v.numpy() for layer in layers for v in layer.weights if "moving" not in v.name}


def compressed(layer, name) -> bool:
    w = layer.kernel.numpy()
    return len(np.unique(w)) <= 5 if name == "Cluster" else (w == 0).mean() >= 0.4


@pytest.mark.parametrize("freeze", ["layer", "constructor", "weight"])
@pytest.mark.parametrize("name", MAKERS)
def test_however_they_were_frozen(name, freeze):
    model = network(freeze)
    before, one = frozen_of(model), MAKERS[name]()
    one.attach(model)
    assert len([note for note in one._notes if "left alone as frozen (trainable=False)" in note]) == 1
    held = [v.path for v in model.weights if v.constraint is not None]
    assert held and not any("block" in path or "norm" in path for path in held)
    for path, value in frozen_of(model).items():
        np.testing.assert_array_equal(value, before[path])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.sweep(1)
def test_left_alone_and_told(name):
    model = network("parent")
    before, one = frozen_of(model), MAKERS[name]()
    fit(model, one)
    for path, value in frozen_of(model).items():
        np.testing.assert_array_equal(value, before[path])
    if name == "PruneChannels":
        assert {row.name for row in one.report.groups} == {"one", "last"}
        alone = dict(one.report.left_alone)
        assert alone["first"] == "frozen (trainable=False): block/two"  # its reader is
        assert alone["block/three"] == "frozen (trainable=False): block/three, norm"
        assert any(note.startswith("3 groups of channels left alone as frozen") for note in one.report.notes)
        smaller = surgery.shrink(model).model
        for path, value in frozen_of(smaller).items():
            np.testing.assert_array_equal(value, before[path])
        np.testing.assert_allclose(smaller(data()[0]), model(data()[0]), rtol=1e-4, atol=1e-5)
    else:
        assert [row.name for row in one.report.layers] == [f"{n}/kernel" for n in ("one", "first", "last", "out")]
        why = "frozen (trainable=False)"
        assert one.report.skipped == (("block/two/kernel", why), ("block/three/kernel", why))
        note = "2 kernels left alone as frozen (trainable=False): block/two/kernel, block/three/kernel."
        assert any(said.startswith(note) for said in one.report.notes) and note in str(one.report)
    assert compressed(model.get_layer("last"), name)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.sweep(1)
def test_taken_where_asked_for(name):
    model, one = network("parent"), MAKERS[name](frozen=True)
    fit(model, one)
    assert all(compressed(layer, name) for layer in model.get_layer("block").layers)
    assert not any("left alone as frozen" in note for note in one.report.notes)
    if name == "PruneChannels":
        smaller = surgery.shrink(model).model
        assert smaller.get_layer("block").layers[0].units == 6
        np.testing.assert_allclose(smaller(data()[0]), model(data()[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_all_frozen(name):
    model = network("parent")
    model.trainable = False
    with pytest.raises(ModelError, match=r"frozen \(trainable=False\).*frozen=True"):
        MAKERS[name]().attach(model)
    MAKERS[name](frozen=True).attach(model)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.sweep(1)
def test_unfrozen_for_a_second_fit(name):
    """Transfer learning: the head first, then all, with one callback."""
    model, one = network("parent"), MAKERS[name]()
    fit(model, one)
    model.get_layer("block").trainable = model.get_layer("norm").trainable = True
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    fit(model, one)
    layers = [model.get_layer("one"), *model.get_layer("block").layers]
    assert all(compressed(layer, name) for layer in layers)
    assert not any("left alone as frozen" in note for note in one.report.notes)
    model.get_layer("block").trainable = False
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    before = frozen_of(model)
    fit(model, one)
    for path in ("two/kernel", "three/kernel"):
        np.testing.assert_array_equal(frozen_of(model)[path], before[path])
    assert all(compressed(layer, name) for layer in layers)


def test_what_cannot_be_done_with_frozen_weights():
    model = network("parent")
    with pytest.raises(ModelError, match=r"Frozen weights cannot follow .*block/two/kernel"):
        Cluster(4, per="model", frozen=True).attach(model)
    with pytest.raises(ModelError, match="'movement' does not go with frozen=True"):
        Prune(PolynomialRatio(0.0, 0.5, 2, 8), criterion="movement", frozen=True).attach(model)
    Cluster(4, per="model").attach(model)


def test_gradients_of_frozen_weights():
    model = network("parent")
    fit(model, Prune(0.5, criterion="snip", data=data(), frozen=True))
    assert all(compressed(layer, "Prune") for layer in model.get_layer("block").layers)


def test_in_a_loop():
    model = network("layer")
    before, prune, optimizer = frozen_of(model), Prune(0.5).attach(model), keras.optimizers.SGD(0.1)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for _ in range(3):
        step(*data())
        prune.step()
    prune.finish()
    for path, value in frozen_of(model).items():
        np.testing.assert_array_equal(value, before[path])
    assert compressed(model.get_layer("one"), "Prune")
