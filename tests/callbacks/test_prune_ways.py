"""`Prune` by hand, on two replicas, and what is left of the zeros in files."""

import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_replicas_agree, two_replicas
from small import L, asked, data, fit, network, schedule, shares, values

from tfstruct import Recipe, to_tflite
from tfstruct.callbacks import Prune
from tfstruct.convert import flatbuffer
from tfstruct.errors import ModelError
from tfstruct.schedules import ConstantRatio


def batches():
    return tf.data.Dataset.from_tensor_slices(data()).batch(4)


def test_the_plain_loop_is_what_fit_does():
    model, twin = network(keras.optimizers.SGD(0.1)), network(keras.optimizers.SGD(0.1))
    optimizer, loss_fn, train_dataset, epochs = model.optimizer, keras.losses.MeanSquaredError(), batches(), 2
    pruner = Prune(schedule(), frequency=3, criterion="movement").attach(model)
    seen = []
    for epoch in range(epochs):  # noqa: B007
        for inputs, labels in train_dataset:
            with tf.GradientTape() as tape:
                loss = loss_fn(labels, model(inputs, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))  # noqa: B905 - word for word
            pruner.step()
            seen.append(shares(model))
    report = pruner.finish()
    assert [seen[step - 1] for step, _, _ in report.history] == [asked(ratio) for _, ratio, _ in report.history]
    again = Prune(schedule(), frequency=3, criterion="movement")
    fit(twin, again)
    assert report == again.report
    for a, b in zip(values(model), values(twin), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def step_function(model, **settings):
    model.optimizer.build(model.trainable_variables)

    @tf.function(**settings)
    def train(inputs, labels):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((labels - model(inputs, training=True)) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    return train


def test_the_loop_with_one_traced_step():
    model = network()
    prune = Prune(schedule(), frequency=3).attach(model)
    train, seen = step_function(model), []
    for _ in range(2):
        for inputs, labels in batches():
            train(inputs, labels)
            prune.step()
            seen.append(shares(model))
    history = prune.finish().history
    assert train.experimental_get_tracing_count() == 1
    assert [seen[step - 1] for step, _, _ in history] == [asked(ratio) for _, ratio, _ in history]
    assert seen[-1] == asked(0.75)


@pytest.mark.parametrize("begin", [0, 2])
def test_a_step_traced_before_attach_is_an_error(begin):
    model = network()
    train = step_function(model)
    inputs, labels = next(iter(batches()))
    train(inputs, labels)
    prune = Prune(ConstantRatio(0.5, begin)).attach(model)
    with pytest.raises(ModelError, match=r"traced before the model was attached.*Call attach.model. first"):
        for _ in range(begin + 1):
            train(inputs, labels)
            prune.step()


def test_step_inside_a_traced_function_is_an_error():
    model = network()
    prune = Prune(0.5).attach(model)

    @tf.function
    def train():
        prune.step()

    with pytest.raises(RuntimeError, match=r"Prune.step.. was called while a tf.function is traced"):
        train()
    assert prune.steps == 0


@pytest.mark.parametrize("criterion", ["magnitude", "movement", pytest.param("gradient", marks=pytest.mark.slow)])
@pytest.mark.sweep(1)
def test_two_replicas(second_device, tmp_path, criterion):
    with two_replicas().scope():
        model = network(keras.optimizers.SGD(0.1))
    settings = {"data": data()} if criterion == "gradient" else {}
    prune = Prune(schedule(), frequency=3, criterion=criterion, **settings)
    seen = []

    def note(batch, logs):
        for masked in prune._masked:
            first, second = (np.asarray(part) for part in masked.mask.value.values)
            np.testing.assert_array_equal(first, second)
        assert_replicas_agree(model)
        seen.append(shares(model))

    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    fit(model, prune, backup, keras.callbacks.LambdaCallback(on_train_batch_end=note))
    history = prune.report.history
    assert [seen[step - 1] for step, _, _ in history] == [asked(ratio) for _, ratio, _ in history]
    assert shares(model) == asked(0.75)
    if criterion == "movement":  # one replica does the same
        alone, again = network(keras.optimizers.SGD(0.1)), Prune(schedule(), frequency=3, criterion=criterion)
        fit(alone, again)
        for a, b in zip(values(model), values(alone), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_two_processes_by_hand(tmp_path):
    """MultiWorkerMirroredStrategy: Keras 3.15's own `fit` fails under it, a loop of one's own does not."""
    here = pathlib.Path(__file__).parent
    with socket.socket() as one, socket.socket() as two:
        one.bind(("localhost", 0))
        port = one.getsockname()[1]
        two.bind(("localhost", port + 1))
    environment = {**os.environ, "PYTHONPATH": f"{here.parents[1]}:{here.parent}:{here}", "CUDA_VISIBLE_DEVICES": "-1"}
    files = [tmp_path / f"{index}.npz" for index in range(2)]
    started = [
        subprocess.Popen([sys.executable, here / "worker.py", str(port), str(index), file], env=environment)
        for index, file in enumerate(files)
    ]
    assert [worker.wait(300) for worker in started] == [0, 0]
    model, prune = network(keras.optimizers.SGD(0.1)), Prune(schedule(), frequency=3, criterion="movement")
    fit(model, prune)
    with np.load(files[0]) as first, np.load(files[1]) as second:
        for name in first.files:
            np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_array_equal(first["history"], np.array(prune.report.history))
        for i, (mask, w) in enumerate(zip(prune._saved.values(), values(model), strict=True)):
            np.testing.assert_array_equal(first[f"arr_{i}"], mask)
            np.testing.assert_allclose(first[f"arr_{2 + 2 * i}"], w, atol=1e-5)


# Afterwards


def convolutional():
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8, 2), name="image"),
        L.Conv2D(8, 3, activation="relu", name="conv"),
        L.GlobalAveragePooling2D(name="pool"),
        L.Dense(4, name="logits"),
    ]
    return keras.Sequential(layers)


def test_int8_keeps_the_zeros():
    model = convolutional()
    Prune(0.6).attach(model).finish()
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 2)).astype("float32")
    file = flatbuffer.read(to_tflite(model, Recipe(precision="int8", calibration=x)).content)
    # Stored as (outputs, height, width, inputs), and (outputs, inputs).
    wanted = [np.moveaxis(model.get_layer("conv").kernel.numpy(), -1, 0), model.get_layer("logits").kernel.numpy().T]
    constants = [
        flatbuffer.constant(file, tensor, np.int8)
        for tensor in file.subgraphs[0].tensors
        if flatbuffer.dtype_name(tensor) == "int8" and flatbuffer.is_constant(file, tensor)
    ]
    for w in wanted:
        (stored,) = [one for one in constants if one.shape == w.shape]
        assert not stored[w == 0].any()
        assert (w == 0).sum() == w.size - round(0.4 * w.size) and (stored[w != 0] != 0).mean() > 0.9


def test_the_saved_model_is_plain_keras(tmp_path):
    model = network(eager=True)
    fit(model, Prune(schedule(), frequency=3, criterion="movement"))
    model.save(tmp_path / "model.keras")
    code = (
        "import sys, keras; m = keras.models.load_model(sys.argv[1]); "
        "print([int((l.kernel.numpy() == 0).sum()) for l in m.layers], 'tfstruct' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.keras")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[72, 36] False"
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
