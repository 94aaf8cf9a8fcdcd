"""`describe`: variances of activations and gradients, layer by layer."""

import json
import math

import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfstruct.errors import DataError, ModelError
from tfstruct.initializers import describe


def deep(scale: float, depth: int = 50, activation="tanh") -> keras.Model:
    keras.utils.set_random_seed(0)
    initializer = keras.initializers.VarianceScaling(scale, seed=0)
    chain = [layers.Dense(32, activation, kernel_initializer=initializer.clone(), name=f"d{i}") for i in range(depth)]
    return keras.Sequential([keras.Input((32,)), *chain, layers.Dense(4, name="logits")], name="deep")


X = np.random.default_rng(0).normal(size=(64, 32)).astype("float32")


def test_values_are_those_of_the_model():
    model = contracts.network()
    x, y = contracts.data()
    states = [v.numpy() for v in model.non_trainable_variables]
    found = describe(model, x, y)
    for v, before in zip(model.non_trainable_variables, states, strict=True):
        np.testing.assert_array_equal(v, before)  # batch norm's statistics are put back
    assert found.layers == ("conv", "norm", "logits") and found.target == "loss"
    inner = keras.Model(model.inputs, model.get_layer("conv").output)(x)
    assert found.variances[0] == pytest.approx(np.var(inner), rel=1e-5)
    assert found.means[1] == pytest.approx(0, abs=1e-5) and found.variances[1] == pytest.approx(1, abs=0.05)
    with tf.GradientTape() as tape:
        h = inner
        tape.watch(h)
        out = h
        for layer in model.layers[1:]:
            out = layer(out, training=True) if layer.name == "norm" else layer(out)
        loss = 64 * model.loss(y, out)
    assert found.gradients[0] == pytest.approx(np.var(tape.gradient(loss, h)), rel=1e-4)


def test_without_labels_a_random_direction():
    model = keras.Sequential([keras.Input((32,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")])
    found = describe(model, X)
    assert found.target == "random direction"
    r = np.random.default_rng(0).normal(size=(64, 2))
    assert found.gradients[1] == pytest.approx(r.var(), rel=1e-5)
    assert found.gradients[0] == pytest.approx((r @ model.layers[1].kernel.numpy().T).var(), rel=1e-5)


def test_faults_are_named():
    assert any("gradients vanish: from `logits` to `d0`" in f for f in describe(deep(0.3), X).findings)
    assert any("gradients explode" in f for f in describe(deep(4.0, activation=None), X).findings)
    assert any("activations explode" in f for f in describe(deep(4.0, activation=None), X).findings)
    assert describe(deep(1.0, activation=None), X).findings == ()
    broken = deep(1.0, depth=3)
    broken.get_layer("d1").kernel.assign(np.full((32, 32), np.nan))
    assert "`d1` puts out numbers that are not finite" in describe(broken, X).findings


def test_a_softmax_at_the_end_has_its_gradient():
    model = keras.Sequential([keras.Input((32,)), layers.Dense(8, "relu"), layers.Dense(4, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy")
    y = np.arange(64) % 4
    found = describe(model, (X, y))
    wanted = np.where(np.arange(4) == y[:, None], -1 / model.predict(X, verbose=0), 0)
    assert found.gradients[1] == pytest.approx(wanted.var(), rel=1e-4)
    assert found.findings == ()


def test_dropout_leaves_its_state():
    model = keras.Sequential([keras.Input((32,)), layers.Dense(8), layers.Dropout(0.5, seed=1), layers.Dense(2)])
    first = describe(model, X)
    assert describe(model, X) == first
    assert describe(model, X, training=False) != first


def test_report(tmp_path):
    found = describe(deep(0.3, depth=12), X)
    said = str(found)
    assert "gradients of the random direction" in said and "d11" in said and said.endswith(found.findings[-1])
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["layers"] == list(found.layers) and plain["findings"] == list(found.findings)
    broken = deep(1.0, depth=2)
    broken.get_layer("d0").kernel.assign(np.full((32, 32), np.inf))
    dead = describe(broken, X)
    assert None in json.loads(json.dumps(dead.to_dict(), allow_nan=False))["variances"]
    assert not math.isfinite(dead.variances[0])
    pytest.importorskip("matplotlib")
    for report in (found, dead):
        report.plot(tmp_path / "signals.png")
        assert (tmp_path / "signals.png").read_bytes()[:4] == b"\x89PNG"


def test_bad_input():
    model = deep(1.0, depth=1)
    with pytest.raises(DataError, match="needs labels"):
        describe(model, X, loss="mse")
    with pytest.raises(ValueError, match="`samples` must be a whole number, 1 or larger"):
        describe(model, X, samples=0)
    with pytest.raises(DataError, match=r"expected shape \(32,\)"):
        describe(model, X[:, :3])
    with pytest.raises(ModelError, match="no layer with weights"):
        describe(keras.Sequential([keras.Input((32,)), layers.ReLU()]), X)
