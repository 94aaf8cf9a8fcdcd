"""Ways to train that every part of a training run has to work in, and what has to hold in each of them.

A suite gives `build`, a function that returns a compiled model, the same one each time (`network` makes a small one).
"""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

WAYS = ("fit", "jit", "mixed_float16", "mirrored", "tape")
BATCH = 16


def data(count: int = 64, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Small images whose class is their brightest quarter: (count, 8, 8, 2) and labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    x = rng.normal(size=(count, 8, 8, 2)).astype("float32")
    for image, label in zip(x, y, strict=True):
        image[:, 2 * label : 2 * label + 2] += 1.5
    return x, y


def network(*extra: keras.layers.Layer, optimizer="sgd", seed: int = 0, **compiled) -> keras.Model:
    """Convolution, batch norm, ReLU, the layers given, pooling and a dense layer: compiled, seeded."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            *extra,
            keras.layers.AveragePooling2D(2, name="pool"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(4, name="logits"),
        ]
    )
    settings = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "jit_compile": False}
    model.compile(optimizer=optimizer, **{**settings, **compiled})
    return model


@contextlib.contextmanager
def policy(name: str):
    """Models made inside have this dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@functools.cache  # a second strategy in one process starts its collective operations at keys already taken
def two_replicas() -> tf.distribute.MirroredStrategy:
    """Two copies of a model on one processor; conftest makes its second device."""
    assert len(tf.config.list_logical_devices("CPU")) == 2, "ask for the fixture `second_device`"
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def built(build: Callable[[], keras.Model], way: str) -> keras.Model:
    """`build()` in the surroundings of one of `WAYS`."""
    scope = policy("mixed_float16") if way == "mixed_float16" else contextlib.nullcontext()
    if way == "mirrored":
        scope = two_replicas().scope()
    with scope:
        model = build()
    if way == "jit":
        model.jit_compile = True
    return model


def trained(
    build: Callable[[], keras.Model],
    way: str = "fit",
    epochs: int = 2,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    after_step: Callable[[], None] = lambda: None,
) -> tuple[keras.Model, list[float]]:
    """The model after some epochs of `data()`, in order and without shuffling, and its loss in each.

    Args:
        way: one of `WAYS`; "tape" is a loop with GradientTape and one `tf.function`, which may be traced only once.
        callbacks: for `fit`.
        after_step: called after each step of the loop.
    """
    model = built(build, way)
    return model, go_on(model, way, epochs, callbacks, after_step)


def go_on(model, way="fit", epochs=1, callbacks=(), after_step=lambda: None) -> list[float]:
    """Trains a model further: the loss of each epoch."""
    x, y = data()
    if way != "tape":
        history = model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
        return history.history["loss"]

    @tf.function
    def step(inputs, labels):
        with tf.GradientTape() as tape:
            loss = model.loss(labels, model(inputs, training=True)) + sum(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    model.optimizer.build(model.trainable_variables)  # made while a function is traced, they cost a second trace
    losses = []
    for _ in range(epochs):
        batches = []
        for inputs, labels in tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH):
            batches.append(float(step(inputs, labels)))
            after_step()
        losses.append(float(np.mean(batches)))
    assert step.experimental_get_tracing_count() == 1
    return losses


def compressed(build: Callable[[], keras.Model], compressor, way: str, epochs: int) -> tuple[keras.Model, list[float]]:
    """The model after some epochs under a compressor, by hand if `way` is "tape", and its losses."""
    model = built(build, way)
    if way != "tape":
        return model, go_on(model, way, epochs, [compressor])
    compressor.attach(model)
    losses = go_on(model, way, epochs, after_step=compressor.step)
    compressor.finish()
    return model, losses


def assert_learns(build: Callable[[], keras.Model], way: str, epochs: int = 4) -> keras.Model:
    """The loss falls and every weight stays finite; returns the trained model."""
    model, losses = trained(build, way, epochs)
    assert losses[-1] < losses[0], losses
    assert all(np.isfinite(value).all() for value in model.get_weights())
    return model


def assert_replicas_agree(model: keras.Model) -> None:
    """Every trainable weight has the same value in both replicas (batch norm's statistics are united when read)."""
    for variable in model.trainable_variables:
        first, second = (np.asarray(part) for part in variable.value.values)
        np.testing.assert_array_equal(first, second, err_msg=variable.path)


def assert_resumes(build: Callable[[], keras.Model], folder: pathlib.Path, **loading) -> keras.Model:
    """Saved and loaded in the middle of training, a model ends where the one that went on without does.

    Args:
        loading: for `keras.models.load_model`.
    """
    whole, _ = trained(build, epochs=1)
    whole.save(folder / "half.keras")
    resumed = keras.models.load_model(folder / "half.keras", **loading)
    for model in (whole, resumed):  # the first has its step traced already
        go_on(model, epochs=1)
    for a, b in zip(whole.variables, resumed.variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6, err_msg=a.path)
    for a, b in zip(whole.optimizer.variables, resumed.optimizer.variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6, err_msg=a.path)
    return resumed


def round_trip(thing):
    """An object through its configuration: `keras.saving.serialize_keras_object` and back, equal settings required."""
    config = keras.saving.serialize_keras_object(thing)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(thing)
    assert again.get_config() == thing.get_config()
    return again
