"""A model that comes out of surgery of a compiled model is compiled alike, and trains on from there."""

import keras
import numpy as np
import pytest

from tfstruct import surgery

L = keras.layers
X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 32)


def net():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = L.Dense(16, activation="relu", name="a")(inputs)
    x = L.Activation("linear", name="idle")(L.BatchNormalization(name="norm")(L.Dense(16, name="b")(x)))
    model = keras.Model(inputs, L.Dense(4, name="scores")(x), name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(3e-4, weight_decay=0.02), loss, metrics=["accuracy"], jit_compile=False)
    model.fit(X, Y, verbose=0)
    model.optimizer.learning_rate.assign(1e-4)
    return model


def zeroed(model):
    kernel, bias = model.get_layer("a").get_weights()
    kernel[:, :5], bias[:5] = 0.0, 0.0
    model.get_layer("a").set_weights([kernel, bias])
    return model


EDITS = {
    "apply": lambda m: surgery.apply(m, surgery.plan_channels(m, 0.5)),
    "shrink": lambda m: surgery.shrink(zeroed(m)).model,
    "shrink, nothing to do": lambda m: surgery.shrink(m).model,
    "remove_redundant": lambda m: surgery.remove_redundant(m).model,
    "fold_batch_norm": lambda m: surgery.fold_batch_norm(m).model,
    "optimize_inference": lambda m: surgery.optimize_inference(m).model,
    "factorize": lambda m: surgery.factorize(m, rank=4).model,
    "widen": lambda m: surgery.widen(m, "a", 24).model,
    "open_layers": lambda m: surgery.open_layers(m).model,
}


@pytest.mark.parametrize("edit", EDITS)
def test_compiled_alike(edit):
    model = net()
    made = EDITS[edit](model)
    assert made.compiled and made.loss is model.loss and not made.jit_compile
    assert type(made.optimizer) is keras.optimizers.AdamW and made.optimizer is not model.optimizer
    assert float(made.optimizer.learning_rate) == pytest.approx(1e-4) and made.optimizer.weight_decay == 0.02
    assert int(made.optimizer.iterations) == 0
    assert set(made.evaluate(X, Y, verbose=0, return_dict=True)) == {"loss", "accuracy"}


def test_it_trains_as_one_compiled_by_hand():
    made, by_hand = (surgery.apply(model, surgery.plan_channels(model, 0.5)) for model in (net(), net()))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    by_hand.compile(keras.optimizers.AdamW(1e-4, weight_decay=0.02), loss)
    for model in (made, by_hand):
        model.fit(X, Y, shuffle=False, verbose=0)
    for a, b in zip(made.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_of_a_model_that_is_not_compiled_none_is():
    model = keras.Sequential([keras.Input((8,)), L.Dense(4), L.Dense(2)])
    assert not surgery.shrink(model).model.compiled


class Demanding(keras.metrics.Mean):
    def __init__(self, needed, **kwargs):
        super().__init__(**kwargs)


def test_what_cannot_be_made_again_is_said():
    model = net()
    model.compile("adam", "mse", metrics=[Demanding(1)])
    with pytest.warns(UserWarning, match="`net` is not compiled: the optimizer or metrics.*Compile it before `fit`"):
        made = surgery.fold_batch_norm(model).model
    assert not made.compiled
