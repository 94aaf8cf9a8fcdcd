"""The teacher's outputs on disk: resumed, refused, and the same training as without."""

import json
import os

import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct.distill import Distill, Features, Logits, Taught, cached
from tfstruct.errors import DataError
from tfstruct.files import FileLock

L = keras.layers


def classifier(seed, width=4):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((8, 8, 2)), L.Flatten(), L.Dense(width, activation="tanh"), L.Dense(4)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], jit_compile=False)
    return model


def batches(x=None, size=16):
    images, labels = contracts.data()
    return tf.data.Dataset.from_tensor_slices((images if x is None else x, labels)).batch(size)


class Counting(keras.Sequential):
    """A teacher that counts the batches it is run on."""

    runs = 0

    def call(self, inputs, training=None, mask=None):
        tf.py_function(self._count, [], [])
        return super().call(inputs, training=training, mask=mask)

    def _count(self):
        Counting.runs += 1


def counting():
    model = Counting(classifier(1).layers)
    model.build((None, 8, 8, 2))
    Counting.runs = 0
    return model


def rows(path):
    return np.fromfile(path, np.dtype([("sample", "<u8"), ("0", "<f4", (4,))]))


def test_what_is_written(tmp_path):
    teacher, path = classifier(1), tmp_path / "rows"
    found = list(cached(teacher, batches(size=24), path))
    images, labels = contracts.data()
    assert [len(x) for x, _ in found] == [24, 24, 16]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), images)
    assert all(isinstance(y, Taught) for _, y in found)
    np.testing.assert_array_equal(np.concatenate([y.labels for _, y in found]), labels)
    outputs = np.concatenate([y.outputs for _, y in found])
    np.testing.assert_allclose(outputs, teacher(images), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows(path)["0"], outputs)
    assert len(set(rows(path)["sample"].tolist())) == 64
    about = json.loads((tmp_path / "rows.json").read_text())
    assert about["rows"] == 64 and sorted(p.name for p in tmp_path.iterdir()) == ["rows", "rows.json"]


def test_used_again_and_resumed(tmp_path):
    path = tmp_path / "rows"
    cached(counting(), batches(), path)
    assert Counting.runs == 4
    whole = path.read_bytes()
    cached(counting(), batches(), path)
    assert Counting.runs == 0
    # Killed in the third batch, within a row.
    about = json.loads((tmp_path / "rows.json").read_text())
    (tmp_path / "rows.json").write_text(json.dumps({**about, "rows": None}))
    os.truncate(path, 37 * 24 + 5)
    resumed = cached(counting(), batches(), path)
    assert Counting.runs == 2 and path.read_bytes() == whole
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == 64
    np.testing.assert_array_equal(np.concatenate([y.outputs for _, y in resumed]), rows(path)["0"])


def test_training_is_the_same_as_with_the_teacher(tmp_path):
    teacher = classifier(1)
    plain, quick = classifier(2), classifier(2)
    data = batches()
    plain.fit(data, epochs=2, verbose=0, callbacks=[Distill(teacher)])
    with_rows = cached(teacher, data, tmp_path / "rows")
    history = quick.fit(with_rows, validation_data=data, epochs=2, verbose=0, callbacks=[Distill(teacher)]).history
    assert {"accuracy", "val_accuracy"} <= set(history)
    for a, b in zip(plain.get_weights(), quick.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_replicas(tmp_path, second_device):
    teacher = classifier(1)
    with contracts.two_replicas().scope():
        student = classifier(2)
    taught = Distill(teacher).attach(student)
    with_rows = cached(teacher, batches(), tmp_path / "rows")
    found = student.fit(with_rows, epochs=2, verbose=0, callbacks=[taught]).history["distillation_loss"]
    alone = classifier(2)
    wanted = alone.fit(with_rows, epochs=2, verbose=0, callbacks=[Distill(teacher)]).history["distillation_loss"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.slow
def test_shuffled_behind_and_compiled(tmp_path):
    teacher, student = classifier(1), classifier(2)
    student.jit_compile = True
    taught = Distill(teacher, student_loss_weight=0.2)
    data = cached(teacher, batches(), tmp_path / "rows").shuffle(4, seed=0).repeat()
    losses = student.fit(data, steps_per_epoch=4, epochs=4, verbose=0, callbacks=[taught]).history["distillation_loss"]
    assert losses[-1] < losses[0]


def test_a_loop_with_rows(tmp_path):
    teacher, student = classifier(1), classifier(2)
    taught = Distill(teacher, Logits(2.0)).attach(student)
    x, y = next(iter(cached(teacher, batches(size=64), tmp_path / "rows")))
    by_rows = taught.loss(x, student(x, training=True), y.outputs)
    assert float(by_rows) == pytest.approx(float(taught.loss(x, student(x, training=True))), rel=1e-5)


def test_without_labels_several_inputs_outputs_and_weights(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    x = L.Concatenate()([a, b])
    teacher = keras.Model({"a": a, "b": b}, [L.Dense(4)(x), L.Dense(2)(x)])
    data = {"a": np.ones((5, 3), "float32"), "b": np.arange(10, dtype="float32").reshape(5, 2)}
    unlabelled = tf.data.Dataset.from_tensor_slices(data).batch(2)
    for inputs, taught in cached(teacher, unlabelled, tmp_path / "x"):
        assert taught.labels == ()
        for found, wanted in zip(taught.outputs, teacher(inputs), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    student = keras.models.clone_model(teacher)
    student.compile("adam", run_eagerly=True)
    taught = Distill(teacher, student_loss_weight=0)
    history = student.fit(cached(teacher, unlabelled, tmp_path / "x"), epochs=3, verbose=0, callbacks=[taught]).history
    assert history["distillation_loss"][-1] < history["distillation_loss"][0]
    weighted = tf.data.Dataset.from_tensor_slices((data, np.arange(5), np.ones(5))).batch(2)
    inputs, taught, weights = next(iter(cached(teacher, weighted, tmp_path / "w")))
    assert taught.labels.shape == weights.shape == (2,)
    assert cached(teacher, weighted, tmp_path / "w").element_spec[1].outputs[0].shape == (None, 4)


def test_another_teacher_is_refused(tmp_path):
    cached(classifier(1), batches(), tmp_path / "rows")
    cached(classifier(1), batches(), tmp_path / "rows")  # made alike: the same
    with pytest.raises(DataError, match="outputs of another teacher"):
        cached(classifier(2), batches(), tmp_path / "rows")


def test_other_samples_are_refused(tmp_path):
    teacher, path = classifier(1), tmp_path / "rows"
    x, _ = contracts.data()
    cached(teacher, batches(), path)
    with pytest.raises(DataError, match="for other samples, from number 0 on"):
        cached(teacher, batches(x[::-1]), path)
    later = np.concatenate([x[:40], x[:24]])
    with pytest.raises(tf.errors.OpError, match="for other samples, from number 32 on"):
        list(cached(teacher, batches(later), path))
    more = batches().concatenate(batches())
    with pytest.raises(tf.errors.OpError, match="for other samples, from number 64 on"):
        list(cached(teacher, more, path))
    shuffled = batches().unbatch().shuffle(64).batch(16)
    with pytest.raises(tf.errors.OpError, match="shuffle behind `cached`"):
        list(cached(teacher, shuffled, tmp_path / "shuffled"))


def test_other_things_are_refused(tmp_path):
    teacher = classifier(1)
    (tmp_path / "rows").write_text("mine")
    with pytest.raises(DataError, match="not a file of `cached`"):
        cached(teacher, batches(), tmp_path / "rows")
    with pytest.raises(DataError, match="finite"):
        cached(teacher, batches().repeat(), tmp_path / "a")
    with pytest.raises(DataError, match="call batch"):
        cached(teacher, tf.data.Dataset.range(3), tmp_path / "a")
    with pytest.raises(DataError, match="an empty dataset"):
        cached(teacher, batches().take(0), tmp_path / "a")
    student = classifier(2)
    taught = Distill(teacher, Features({student.layers[0].name: teacher.layers[0].name}))
    with pytest.raises(ValueError, match="leave them out"):
        student.fit(cached(teacher, batches(), tmp_path / "a"), verbose=0, callbacks=[taught])


def test_a_run_that_was_killed_before_the_first_row(tmp_path):
    teacher, path = classifier(1), tmp_path / "rows"
    cached(teacher, batches(), path)
    wanted = rows(path)
    path.unlink()  # only the description is there
    cached(teacher, batches(), path)
    np.testing.assert_array_equal(rows(path), wanted)


def test_a_file_is_written_by_one_process_at_a_time(tmp_path):
    held = FileLock(f"{tmp_path / 'rows'}.lock")
    with pytest.raises(DataError, match=r"Another process writes .*Wait until it has ended"):
        cached(classifier(1), batches(), tmp_path / "rows")
    held.release()
    cached(classifier(1), batches(), tmp_path / "rows")
    assert sorted(os.listdir(tmp_path)) == ["rows", "rows.json"]


def test_the_lock_of_a_run_that_was_killed_at_its_end_goes(tmp_path):
    lock = tmp_path / "rows.lock"
    cached(classifier(1), batches(), tmp_path / "rows")
    lock.touch()
    cached(classifier(1), batches(), tmp_path / "rows")
    assert not lock.exists()
    held = FileLock(str(lock))
    cached(classifier(1), batches(), tmp_path / "rows")
    assert lock.exists()
    held.release()
