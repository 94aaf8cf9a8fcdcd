"""The comparison of an opened model with the original: gradients of large weights too, without their memory."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from custom_layers import Scaled
from keras import layers

from tfstruct.graph.opening import equality

# Name -> (layer, its large weight, shape of a sample).
KINDS = {
    "Dense": (lambda: layers.Dense(7), "kernel", (5, 6)),
    "Conv2D": (lambda: layers.Conv2D(5, 3), "kernel", (6, 6, 3)),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3), "kernel", (6, 6, 3)),
    "Embedding": (lambda: layers.Embedding(9, 4), "embeddings", (5,)),
    "Embedding, mixed": (lambda: layers.Embedding(9, 4, dtype="mixed_float16"), "embeddings", (5,)),
    "three axes": (lambda: layers.EinsumDense("abc,cde->abde", (5, 2, 3)), "kernel", (5, 6)),
    "one axis": (lambda: Scaled(6), "scale", (5, 6)),
}


class OtherGradient(layers.Layer):
    """What a layer computes; its gradient by a weight is that times a factor by place along one of its axes."""

    def __init__(self, layer, weight, axis, factors):
        super().__init__(dtype=layer.dtype_policy)
        self.layer, self.weight, self.axis, self.factors = layer, weight, axis, factors

    def call(self, x):
        shape = [1] * len(self.weight.shape)
        shape[self.axis] = -1
        factors = tf.reshape(self.factors, shape)

        @tf.custom_gradient
        def other(value):
            return tf.identity(value), lambda g: tf.convert_to_tensor(g) * tf.cast(factors, g.dtype)

        now = {id(w): tf.convert_to_tensor(w.value) for w in self.layer.weights}
        now[id(self.weight)] = other(now[id(self.weight)])
        with keras.StatelessScope([(w, now[id(w)]) for w in self.layer.weights]):
            return self.layer(x)


def _unequal(kind: str, axis: int, factor: float, calls: int = 1) -> str:
    """In what two models differ of which one has another gradient by one place of the large weight."""
    make, name, shape = KINDS[kind]
    keras.utils.set_random_seed(0)
    layer = make()
    inputs = keras.Input(shape, dtype="int32" if name == "embeddings" else "float32")
    outputs = layer(inputs)
    (weight,) = [w for w in layer.weights if w.name == name]
    factors = np.ones(weight.shape[axis], "float32")
    factors[0] = factor
    other = OtherGradient(layer, weight, axis, factors)
    models = [keras.Model(inputs, [outputs, *(one(inputs) for _ in range(calls))]) for one in (layer, other)]
    return equality.unequal(*models, keras.KerasTensor((3, *shape), inputs.dtype))


def _compared_in_training(monkeypatch, factor: float, apart: bool) -> tuple[str, list[int]]:
    """What `unequal` says of a layer with another gradient, and the batches that it compared in training; `apart`: only
    what differs between samples is read of the layer's outputs."""
    layer, inputs = layers.Dense(7), keras.Input((6,))
    layer(inputs)
    other = OtherGradient(layer, layer.kernel, 0, np.array([factor, 1, 1, 1, 1, 1], "float32"))

    def model(one):
        x = one(inputs)
        return keras.Model(inputs, x - keras.ops.mean(x, axis=0, keepdims=True) if apart else x)

    run, batches = equality._run, []

    def counted(model, x, training, weights):
        batches.extend([len(x)] if training else [])
        return run(model, x, training, weights)

    monkeypatch.setattr(equality, "_run", counted)
    structure, small = (keras.KerasTensor((batch, 6)) for batch in (4, 1))
    return equality.unequal(model(layer), model(other), structure, small=small), batches


def test_gradients_are_those_of_a_small_batch(monkeypatch):
    assert _compared_in_training(monkeypatch, 1.0, False) == ("", [1, 1])
    assert "gradients differ" in _compared_in_training(monkeypatch, 3.0, False)[0]


def test_weights_without_a_gradient_by_one_sample_are_compared_by_several(monkeypatch):
    assert _compared_in_training(monkeypatch, 1.0, True) == ("", [1, 1, 4, 4])
    assert "gradients differ" in _compared_in_training(monkeypatch, 3.0, True)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_large_weights(kind, monkeypatch):
    monkeypatch.setattr(equality, "_WHOLE", 0)
    for axis in {0, len(KINDS[kind][2]) - 1} if kind == "three axes" else {0, -1}:
        assert _unequal(kind, axis, 1.0) == ""
        assert "gradients differ" in _unequal(kind, axis, 3.0)
    assert "gradients differ" in _unequal(kind, 0, 0.0, calls=2)


def test_a_weight_of_more_than_a_million_numbers():
    KINDS["large"] = (lambda: layers.Dense(1100), "kernel", (1100,))
    try:
        assert "gradients differ" in _unequal("large", 0, 0.0)
        assert _unequal("large", 0, 1.0) == ""
    finally:
        del KINDS["large"]


def test_what_is_compared_of_a_large_weight_is_a_row():
    rng = np.random.default_rng(0)
    value, x = (tf.constant(rng.normal(size=shape), "float32") for shape in ((3, 4, 5), (3, 4, 5)))
    source = tf.zeros(5)
    with tf.GradientTape() as tape:
        tape.watch(source)
        made = tf.reduce_sum(equality._projected(value, source) * x)
    row = tape.gradient(made, source)
    d = np.random.default_rng(2).normal(size=12) / np.sqrt(12)
    np.testing.assert_allclose(row, d @ x.numpy().reshape(12, 5), rtol=1e-5)
