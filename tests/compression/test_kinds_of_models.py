"""Models of every kind through the whole chain: several inputs and outputs, regression, no labels, streams, nesting."""

import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct.compression import Settings, Task, carry_out
from tfstruct.compression.strategy import decide
from tfstruct.graph import trace

layers = keras.layers
rng = np.random.default_rng(0)


def several():
    """Two inputs, a class and a value, compiled with weights by name."""
    a, b = keras.Input((8, 8, 2), name="image"), keras.Input((3,), name="facts")
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(a)
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.Dense(8, activation="relu")(b)])
    x = layers.Dense(24, activation="relu")(x)
    outputs = [layers.Dense(4, activation="softmax", name="kind")(x), layers.Dense(1, name="size")(x)]
    model = keras.Model([a, b], outputs, name="several")
    model.compile(
        "adam", {"kind": "sparse_categorical_crossentropy", "size": "mse"}, {"kind": 1.0, "size": 0.1},
    )  # fmt: skip
    x, y = contracts.data(96)
    facts = rng.normal(size=(96, 3)).astype("float32")
    return model, ({"image": x, "facts": facts}, {"kind": y, "size": facts[:, :1]})


def regression():
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(32, activation="relu"), layers.Dense(32, activation="relu"), layers.Dense(1)]
    )
    x = rng.normal(size=(96, 5)).astype("float32")
    return model, (x, x[:, 0] * 2 + 1)


def unlabelled():
    model, (x, _) = several()
    return keras.Model(model.inputs, model.outputs, name="unlabelled"), x


def streamed():
    model = contracts.network(layers.Conv2D(16, 3, padding="same", activation="relu"))
    x, y = contracts.data(96)
    return model, tf.data.Dataset.from_tensor_slices((x, y)).batch(16)


def nested():
    inner_in = keras.Input((8, 8, 16))
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv")(inner_in)
    inner = keras.Model(inner_in, layers.Add()([inner_in, y]), name="block")
    shared = layers.Conv2D(16, 1, activation="relu", name="twice")
    inputs = keras.Input((8, 8, 2))
    x = shared(inner(layers.Conv2D(16, 3, padding="same", name="stem")(inputs)))
    x = layers.GlobalAveragePooling2D()(shared(x))
    return keras.Model(inputs, layers.Dense(4, name="logits")(x), name="outer"), contracts.data(96)


def auto_encoder():
    sizes = (16, 4, 16)
    hidden = [layers.Dense(n, activation="relu") for n in sizes]
    model = keras.Sequential([keras.Input((20,)), *hidden, layers.Dense(20)], name="auto")
    model.compile("adam", "mse")
    x = rng.normal(size=(96, 20)).astype("float32")
    return model, (x, x)


def sequence():
    model = keras.Sequential(
        [
            keras.Input((6, 3)),
            layers.GRU(16),
            layers.Dense(16, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    return model, (rng.normal(size=(96, 6, 3)).astype("float32"), rng.integers(0, 3, 96))


KINDS = (several, regression, unlabelled, streamed, nested, auto_encoder, sequence)


@pytest.mark.slow
@pytest.mark.parametrize("build", KINDS)
def test_kinds(build, process):
    keras.utils.set_random_seed(0)
    model, data = build()
    settings = Settings(epochs=2, batch_size=16, learning_rate=1e-3)
    before = model.get_weights()
    with Task(model, data, data, "params=80%", settings=settings, process=process) as task:
        made = carry_out(task, decide(task)[0])
    assert made.candidate.params <= 0.8 * task.original.params
    assert made.twin is not None and made.candidate.tflite_bytes == len(made.file.content)
    assert sum(len(stage.history) for stage in made.stages) == 2
    assert np.isfinite(made.candidate.quality)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [t.shape[1:] for t in trace(made.model).outputs] == [t.shape[1:] for t in task.graph.outputs]
