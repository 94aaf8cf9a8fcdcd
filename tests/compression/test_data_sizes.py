"""Models whose inputs leave sizes open are compressed at the sizes of their data, and the report says so."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct.compression import Settings, Task, carry_out
from tfstruct.compression.strategy import decide
from tfstruct.errors import ModelError

layers = keras.layers
rng = np.random.default_rng(0)


def functional():
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(16, 3, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="kind")(x), name="pictures")
    return model, (rng.normal(size=(40, 12, 10, 3)).astype("float32"), rng.integers(0, 4, 40)), [(12, 10, 3)]


def sequential():
    model = keras.Sequential(
        [keras.Input((None, 5)), layers.Conv1D(16, 3, padding="causal", activation="relu"), layers.GRU(12),
         layers.Dense(3)], name="series",
    )  # fmt: skip
    return model, (rng.normal(size=(40, 9, 5)).astype("float32"), rng.integers(0, 3, 40)), [(9, 5)]


def nested():
    """A task model around a backbone, as KerasHub's: inputs by name, of one open length."""
    given = {name: keras.Input((None,), dtype="int32", name=name) for name in ("ids", "mask")}
    x = layers.Embedding(30, 16, name="embed")(given["ids"])
    x = x * keras.ops.cast(given["mask"], "float32")[..., None]
    x = layers.Add()([x, layers.MultiHeadAttention(2, 8, name="attend")(x, x)])
    backbone = keras.Model(given, layers.Dense(16, activation="relu", name="hidden")(x), name="backbone")
    outer = {name: keras.Input((None,), dtype="int32", name=name) for name in ("ids", "mask")}
    logits = layers.Dense(3, name="logits")(backbone(outer)[:, 0, :])
    ids = rng.integers(0, 30, (40, 7)).astype("int32")
    return keras.Model(outer, logits, name="task"), ({"ids": ids, "mask": (ids > 3).astype("int32")}, ids[:, 0] % 3), [
        (7,), (7,),
    ]  # fmt: skip


def streamed():
    model, (x, y), sizes = functional()
    return model, tf.data.Dataset.from_tensor_slices((x, y)).batch(8), sizes


@pytest.mark.parametrize("build", [functional, sequential, nested, streamed])
def test_sizes_of_the_data(build, process):
    keras.utils.set_random_seed(0)
    model, data, sizes = build()
    model.compile("adam", "sparse_categorical_crossentropy")
    before = [np.array(w) for w in model.get_weights()]
    settings = Settings(epochs=0, batch_size=8)
    with Task(model, data, data, "params=80%", settings=settings, process=process) as task:
        made = carry_out(task, decide(task)[0])
    assert [tuple(x.shape[1:]) for x in task.model.inputs] == sizes
    assert [tuple(x.shape[1:]) for x in made.model.inputs] == sizes
    (warning,) = (said for said in task.warnings if "sizes" in said)
    assert str(sizes[0]) in warning and repr(model.inputs[0].name) in warning
    assert {layer.name for layer in task.model.layers} == {layer.name for layer in model.layers}
    x = task.validation.x
    np.testing.assert_allclose(task.model.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    assert [x.shape[1:] for x in model.inputs] != sizes  # the user's model is as it was
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_data_of_many_sizes(process):
    model, (x, y), _ = functional()

    def samples():
        for i in range(40):
            yield x[i, : 6 + i % 3], y[i]

    spec = tf.TensorSpec((None, 10, 3)), tf.TensorSpec((), tf.int64)
    stream = tf.data.Dataset.from_generator(samples, output_signature=spec)
    with pytest.raises(ModelError, match=r"leaves dimensions 0 and 1 .* give data of one size, or"):
        Task(model, stream, stream, "params=80%", process=process)
