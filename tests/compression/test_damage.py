"""What alternatives lose, alone in the place of the original, against its definition; a killed run goes on."""

import types

import keras
import numpy as np
import pytest
import zoo
from keras import layers

from tfstruct import graph as graphs
from tfstruct.compression import held_out
from tfstruct.compression.alternatives import damage
from tfstruct.compression.alternatives.alternative import Alternative, Part
from tfstruct.compression.alternatives.damage import measure_damages
from tfstruct.compression.alternatives.distances import constant_for, distance_of
from tfstruct.compression.alternatives.offered import parts_of, steps_of
from tfstruct.compression.dataset import open_data
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.objective import objective
from tfstruct.compression.progress import ProgressReporter
from tfstruct.errors import ModelError
from tfstruct.samples.ports import Ports
from tfstruct.surgery import recalibrate_batch_norm


def image_model(norm=False):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    y = layers.Conv2D(12, 3, padding="same", activation="relu", name="inner")(x)
    y = layers.BatchNormalization(name="norm")(y) if norm else y
    x = layers.Add(name="add")([x, layers.Conv2D(8, 3, padding="same", name="outer")(y)])
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return zoo.randomise(keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(x)))


def task_of(model, data, count=None, **figures):
    graph = graphs.trace(model)
    train, kept, seen = held_out.split(open_data(data, Ports(model)), 0)
    aim = objective(graph, train.take(8).labels)
    return types.SimpleNamespace(
        model=model, graph=graph, aim=aim, train=train, process=None,
        held_out=None if kept is None else held_out.HeldOut(kept, aim, model, seen),
        limits=types.SimpleNamespace(figures=figures), progress=ProgressReporter(),
        settings=types.SimpleNamespace(seed=0, target="mobile"),
    )  # fmt: skip


def images(count=240):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 8, 8, 3)).astype("float32"), rng.integers(0, 4, count)


@pytest.fixture(scope="module")
def task():
    return task_of(image_model(), images(), tflite_bytes=3000)


@pytest.fixture(scope="module")
def parts(task):
    wanted = ("width of stem", "width of inner", "form of inner", "block add", "bits of outer")
    found = [part for part in parts_of(task) if part.name in wanted]
    assert len(found) == len(wanted)
    some = {part.name: dict.fromkeys([part.alternatives[1], part.alternatives[-1]]) for part in found}
    return [Part.of(part.name, part.kind, some[part.name], part.layers) for part in found]


@pytest.fixture(scope="module")
def untaught(task, parts, tmp_path_factory):
    return measure_damages(task, parts, steps=0, pairs=2, folder=WorkingFolder(tmp_path_factory.mktemp("untaught")))


def divergence(theirs, ours):
    return float(np.mean(np.sum(theirs * (np.log(theirs) - np.log(ours)), -1)))


def edited(task, *chosen):
    model = task.model
    for step in steps_of(dict(chosen)):
        model = step.edit(model)
    return np.asarray(model(task.held_out.examples.x), "float64")


def test_without_training_it_is_the_divergence_of_the_edited_whole(task, parts, untaught):
    theirs = np.asarray(task.model(task.held_out.examples.x), "float64")
    for part in parts:
        assert untaught.parts[part.name][0] == 0
        for place, one in enumerate(part.alternatives[1:], 1):
            expected = divergence(theirs, edited(task, (part, one)))
            assert untaught.parts[part.name][place] == pytest.approx(expected, rel=1e-3, abs=1e-6), (
                part.name,
                one.name,
            )
    assert not untaught.failed and untaught.samples == 20


def test_what_a_model_loses_that_knows_nothing(task, untaught):
    theirs = np.asarray(task.model(task.held_out.examples.x), "float64")
    assert untaught.nothing == pytest.approx(divergence(theirs, theirs.mean(0)), rel=1e-3)
    rng = np.random.default_rng(0)
    logits, values = rng.normal(0, 3, (40, 2, 5)).astype("float32"), rng.normal(2, 3, (40, 2)).astype("float32")

    def lost(kind, theirs, variance=1.0):
        ours = constant_for(kind, [theirs[:16], theirs[16:]])
        assert ours.shape == (1, *theirs.shape[1:])
        return float(np.mean(distance_of(kind, variance)(theirs, np.broadcast_to(ours, theirs.shape))))

    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = divergence(shares, shares.mean(0))
    assert lost("logits", logits) == pytest.approx(expected, rel=1e-4)
    assert lost("probabilities", shares) == pytest.approx(expected, rel=1e-4)
    assert lost("values", values, np.var(values, 0).mean()) == pytest.approx(1, rel=1e-4)


def test_what_pairs_lose_beyond_the_sum(task, parts, untaught):
    by_name = {part.name: part for part in parts}
    theirs = np.asarray(task.model(task.held_out.examples.x), "float64")
    assert len(untaught.pairs) == 2
    for ends, beyond in untaught.pairs.items():
        chosen = [(by_name[name], by_name[name].alternatives[place]) for name, place in ends]
        assert set(chosen[0][0].layers) & set(chosen[1][0].layers)
        together = divergence(theirs, edited(task, *chosen))
        alone = sum(untaught.parts[name][place] for name, place in ends)
        assert beyond == pytest.approx(together - alone, rel=1e-3, abs=1e-5)


def test_training_on_what_the_original_makes_loses_less(task, parts, untaught, tmp_path):
    some = [part for part in parts if part.name in ("width of inner", "form of inner", "bits of outer")]
    taught = measure_damages(task, some, steps=60, pairs=0, folder=WorkingFolder(tmp_path))
    for part in some[:2]:
        assert (taught.parts[part.name][1:] < 0.9 * untaught.parts[part.name][1:]).all(), part.name
    # Kernels in 4 bits are on their grid, and stay.
    np.testing.assert_allclose(taught.parts["bits of outer"], untaught.parts["bits of outer"], rtol=1e-3)
    again = task.model.get_layer("inner").kernel.numpy()
    np.testing.assert_array_equal(again, image_model().get_layer("inner").kernel.numpy())  # the original stays


def test_kernels_are_rounded_after_the_training_where_both_are_tried(task, parts, tmp_path):
    form, bits = (next(part for part in parts if part.name == name) for name in ("form of inner", "bits of outer"))
    on_the_same = Part.of("bits of inner", "quantize", [Alternative("4 bits", {"layer": "inner", "precision": "int4"})],
                          ["inner"])  # fmt: skip
    found = measure_damages(task, [form, bits, on_the_same], steps=60, pairs=1, folder=WorkingFolder(tmp_path))
    ((ends, beyond),) = found.pairs.items()
    assert ends == (("form of inner", 1), ("bits of inner", 1))
    together = beyond + found.parts["form of inner"][1] + found.parts["bits of inner"][1]
    assert together < 3 * (found.parts["form of inner"][1] + found.parts["bits of inner"][1])


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_numbers(task, parts, tmp_path, monkeypatch):
    some = [part for part in parts if part.name in ("width of inner", "block add")]
    whole = measure_damages(task, some, steps=2, pairs=1, folder=WorkingFolder(tmp_path / "whole"))
    for steps_done in (2,):
        folder, own, done = WorkingFolder(tmp_path / str(steps_done)), damage._Work.result, []

        def result(self, job, own=own, done=done, most=steps_done):
            if len(done) == most:
                raise Killed
            done.append(job)
            return own(self, job)

        with monkeypatch.context() as patch:
            patch.setattr(damage._Work, "result", result)
            with pytest.raises(Killed):
                measure_damages(task, some, steps=2, pairs=1, folder=folder)
        assert len(list(folder.path.glob("*.json"))) == steps_done
        again = measure_damages(task, some, steps=2, pairs=1, folder=folder)
        for name, losses in whole.parts.items():
            np.testing.assert_allclose(again.parts[name], losses, rtol=1e-5)
        assert again.pairs.keys() == whole.pairs.keys()
    assert {path.suffix for path in folder.path.iterdir()} == {".json"}  # recorded values are gone
    calls = []
    monkeypatch.setattr(damage._Work, "_measured", lambda *args: calls.append(args))
    measure_damages(task, some, steps=2, pairs=1, folder=folder)
    assert not calls  # all of it is read


def test_batch_norms_are_measured_anew(tmp_path):
    model = image_model(norm=True)
    model.get_layer("norm").moving_mean.assign(np.full(12, 4.0))
    task = task_of(model, images(), macs=1e5)
    fewer = Alternative("8 channels", {"layer": "inner", "width": 8})
    part = Part.of("width of inner", "prune_channels", [fewer], ["inner", "norm", "outer"])
    found = measure_damages(task, [part], steps=0, pairs=0, folder=WorkingFolder(tmp_path))
    (step,) = steps_of({part: fewer})
    made = step.edit(model)
    recalibrate_batch_norm(made, task.train.take(damage._JUDGED).inputs[0])
    x = task.held_out.examples.x
    expected = divergence(np.asarray(model(x), "float64"), np.asarray(made(x), "float64"))
    assert found.parts["width of inner"][1] == pytest.approx(expected, rel=1e-3)


def test_what_cannot_be_made_is_said_and_counts_as_the_worst(task, parts, tmp_path):
    impossible = Part.of("width of head", "prune_channels", [Alternative("2", {"layer": "head", "width": 2})], ["head"])
    some = [parts[0], impossible]
    found = measure_damages(task, some, steps=0, pairs=0, folder=WorkingFolder(tmp_path))
    assert "the model's own output" in found.failed["width of head", 1]
    assert found.parts["width of head"][1] == max(found.parts[parts[0].name])


def test_several_inputs_and_outputs_and_streams(tmp_path):
    import tensorflow as tf

    model = zoo.build("several")
    rng = np.random.default_rng(0)
    x = {"image": rng.normal(size=(60, 8, 8, 1)).astype("float32"), "extra": rng.normal(size=(60, 4)).astype("float32")}
    y = {"kind": rng.integers(0, 3, 60), "size": rng.normal(size=(60, 1)).astype("float32")}
    task = task_of(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(20))
    every = {part.name: part for part in parts_of(task)}
    some = [Part.of(name, every[name].kind, every[name].alternatives[-1:], every[name].layers)
            for name in ("width of conv", "width of fc")]  # fmt: skip
    found = measure_damages(task, some, steps=1, pairs=1, folder=WorkingFolder(tmp_path))
    assert all((losses[1:] > 0).all() for losses in found.parts.values())
    assert found.samples == 60


def test_too_few_samples_are_refused():
    with pytest.raises(ModelError, match="too small to hold some out. Give 192 samples or more".replace(".", r"\.")):
        measure_damages(task_of(image_model(), images(100)), [])
