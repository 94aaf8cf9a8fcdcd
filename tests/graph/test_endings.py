"""What made an output: one answer for compression and distillation."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct.compression.objective import objective
from tfstruct.distill.class_scores import kinds_of
from tfstruct.graph import trace


def _nested(x):
    inner = keras.Input((3,))
    return keras.Model(inner, layers.Dropout(0.5)(inner))(x)


TAILS = {
    "none": lambda x: x,
    "linear": lambda x: layers.Activation("linear", dtype="float32")(x),
    "identity": lambda x: layers.Identity()(x),
    "dropout": lambda x: layers.Dropout(0.5)(x),
    "noise": lambda x: layers.GaussianNoise(0.1)(x),
    "reshape": lambda x: layers.Reshape((3,))(x),
    "regularized": lambda x: layers.ActivityRegularization(0.1)(x),
    "cast": lambda x: ops.cast(x, "float32"),
    "operations": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    "nested": _nested,
}
MAKERS = {
    "softmax": (lambda x: layers.Dense(3, activation="softmax")(x), "probabilities", "softmax"),
    "layer": (lambda x: layers.Softmax()(layers.Dense(3)(x)), "probabilities", "softmax"),
    "operation": (lambda x: ops.softmax(layers.Dense(3)(x)), "probabilities", "softmax"),
    "sigmoid": (lambda x: layers.Activation("sigmoid")(layers.Dense(3)(x)), "probability", "sigmoid"),
    "wrapped": (
        lambda x: layers.Flatten()(layers.TimeDistributed(layers.Dense(3, activation="softmax"))(x[:, None])),
        "probabilities", "softmax",
    ),
    "sequential": (
        lambda x: keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])(x),
        "probabilities", "softmax",
    ),
    "logits": (lambda x: layers.Dense(3)(x), "logits", "logits"),
}  # fmt: skip


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("maker", MAKERS)
def test_compression_and_distillation_agree(maker, tail):
    make, compression, distillation = MAKERS[maker]
    model = keras.Model(x := keras.Input((4,)), TAILS[tail](make(x)))
    assert objective(trace(model), np.arange(12) % 3, None).kinds == (compression,)
    assert kinds_of(model, None, None) == [distillation]


class Claims(layers.Layer):
    activation = "softmax"

    def call(self, x):
        return 5 * x


def test_an_unknown_layer_is_not_believed():
    model = keras.Model(x := keras.Input((4,)), Claims()(layers.Dense(3)(x)))
    assert objective(trace(model), np.arange(12) % 3, None).kinds == ("logits",)
    assert kinds_of(model, None, None) == ["logits"]
