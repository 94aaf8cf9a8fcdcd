"""Statistics of batch norms that lag are measured anew where that leaves more on samples that nothing trains on."""

import types

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct.compression import held_out
from tfstruct.compression.batch_norms import with_fresh_statistics
from tfstruct.compression.dataset import Examples, open_data
from tfstruct.compression.objective import Objective
from tfstruct.compression.outcome import Outcome
from tfstruct.graph.copying import copied
from tfstruct.samples.ports import Ports
from tfstruct.surgery import recalibrate_batch_norm

COUNT = 240


def data(count=COUNT):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    return (np.eye(3, 6)[y] * 4 + rng.normal(size=(count, 6)) + 5).astype("float32"), y


@pytest.fixture(scope="module")
def trained():
    """A model whose statistics fit its data, after some training."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, name="one")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.BatchNormalization(name="held", trainable=False)(layers.ReLU(name="relu")(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(*data(), epochs=3, batch_size=60, verbose=0)
    model.get_layer("norm").momentum = 0.9
    recalibrate_batch_norm(model, data()[0])
    return model


def lagging(model):
    made = copied(model)
    norm = made.get_layer("norm")
    norm.moving_mean.assign(norm.moving_mean + 3.0)
    norm.moving_variance.assign(norm.moving_variance * 9)
    return made


def task_of(model, count=COUNT, labels=True):
    x, y = data(count)
    opened = open_data((x, y) if labels else x, Ports(model))
    train, kept, seen = held_out.split(opened, 0)
    loss = keras.losses.SparseCategoricalCrossentropy() if labels else None
    aim = Objective(loss, None, None, ("probabilities",))
    held = None if kept is None else held_out.HeldOut(kept, aim, model, seen)
    return types.SimpleNamespace(model=model, held_out=held, some_inputs=train.take(512).x)


def states(model):
    return {w.path: w.numpy() for w in model.non_trainable_weights if "moving" in w.name}


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "the original teaches"])
def test_statistics_that_lag_are_measured_anew_and_it_is_said(trained, labels):
    task, model = task_of(trained, labels=labels), lagging(trained)
    made = with_fresh_statistics(task, Outcome(model, [("one", "cut")]))
    found = made.details["batch_norms"]
    assert made.model is model and found["taken"] and found["anew"] < found["loss"]
    assert made.changes[0] == ("one", "cut")
    assert made.changes[1][1].startswith("statistics of 1 batch norm measured anew, as they lagged: loss ")
    assert made.changes[1][1].endswith("on 20 held-out samples")
    expected = lagging(trained)
    recalibrate_batch_norm(expected, task.some_inputs)
    for path in ("moving_mean", "moving_variance"):
        ours, theirs = (getattr(one.get_layer("norm"), path).numpy() for one in (model, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        np.testing.assert_array_equal(
            getattr(model.get_layer("held"), path), getattr(trained.get_layer("held"), path)
        )  # frozen


def test_statistics_that_leave_as_much_stay(trained):
    task, model = task_of(trained), copied(trained)
    rng = np.random.default_rng(1)
    task.some_inputs = rng.normal(size=(64, 6)).astype("float32")  # statistics of these would be worse
    before = states(model)
    made = with_fresh_statistics(task, Outcome(model))
    assert not made.changes and made.details["batch_norms"]["taken"] is False
    for path, value in states(model).items():
        np.testing.assert_array_equal(value, before[path])


def test_the_original_is_never_changed(trained):
    original = lagging(trained)
    before = states(original)
    made = with_fresh_statistics(task_of(original), Outcome(original))
    assert made.model is not original and made.details["batch_norms"]["taken"]
    for path, value in states(original).items():
        np.testing.assert_array_equal(value, before[path])


def test_a_loss_that_is_no_number_is_left_behind(trained):
    model = copied(trained)
    model.get_layer("norm").moving_mean.assign(np.full(8, np.nan))
    assert with_fresh_statistics(task_of(trained), Outcome(model)).details["batch_norms"]["taken"]
    assert np.isfinite(model.get_layer("norm").moving_mean.numpy()).all()


def test_the_quantized_model_is_what_is_judged(trained):
    from tfstruct.quantize import calibrate

    model = lagging(trained)
    twin = calibrate(model, data()[0], "int8")
    task = task_of(trained)
    made = with_fresh_statistics(task, Outcome(twin.model, twin=twin))
    assert made.details["batch_norms"]["anew"] == pytest.approx(task.held_out.loss(twin))
    assert made.twin is twin


def test_too_few_samples_are_said_and_models_without_batch_norms_are_left_alone(trained):
    model = lagging(trained)
    made = with_fresh_statistics(task_of(trained, 100), Outcome(model))
    assert "too few to hold some out" in made.skipped[0][1] and not made.details
    plain = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    outcome = Outcome(plain)
    assert with_fresh_statistics(task_of(trained), outcome) is outcome


def test_what_is_held_out_is_never_trained_on():
    x = np.arange(COUNT, dtype="float32")[:, None]
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    opened = open_data((x, x), Ports(model))
    train, kept, seen = held_out.split(opened, 3)
    assert isinstance(train, Examples) and not seen
    assert len(kept) == 20 and len(train) == 220 and train.steps(32) == 6
    assert train.fingerprint() == opened.fingerprint()
    batches = [np.asarray(batch).ravel() for batch, _ in train.batches(range(2), 20, 0)]
    assert len(batches) == 22
    out = set(kept.inputs[0].ravel().tolist())
    for epoch in (batches[:11], batches[11:]):
        assert sorted(np.concatenate(epoch).tolist()) == sorted(set(x.ravel().tolist()) - out)
    assert set(train.take(30).inputs[0].ravel().tolist()) & out == set() and len(train.take(30)) == 30
    assert (
        held_out.split(opened, 3)[1].fingerprint() == kept.fingerprint() != held_out.split(opened, 4)[1].fingerprint()
    )


def test_a_stream_cannot_be_split_which_is_said():
    import tensorflow as tf

    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    x = np.zeros((50, 1), "float32")
    train, kept, seen = held_out.split(open_data(tf.data.Dataset.from_tensor_slices((x, x)).batch(10), Ports(model)), 0)
    aim = Objective(None, None, None, ("values",))
    assert seen and len(kept) == 50 and train.steps(10) == 5
    assert str(held_out.HeldOut(kept, aim, model, seen)) == "50 samples that training sees too"
