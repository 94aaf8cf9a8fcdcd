"""Training killed at any step and resumed ends as an uninterrupted run does."""

import contextlib
import functools
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from killed import CASES, Killed, run
from small import asked, fit, network, schedule, shares

from tfstruct.callbacks import Prune
from tfstruct.errors import ModelError


@functools.cache
def uninterrupted(case):
    return run(None, case)


def assert_same(case, resumed):
    weights, masks, prune = resumed
    wanted_weights, wanted_masks, whole = uninterrupted(case)
    for a, b in zip(masks, wanted_masks, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(weights, wanted_weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert prune.steps == whole.steps == 24
    assert prune.report == whole.report
    assert prune.schedule.state() == whole.schedule.state()


ORDERS = [True, False]  # the backup first in the list, or Prune
QUICK = [("magnitude", True), ("gradient", True), ("movement", False), ("automatic", False), ("regrow", True)]
PAIRS = [
    pytest.param(case, first, marks=[] if (case, first) in QUICK else pytest.mark.slow, id=f"{case}-{first}")
    for case in CASES
    for first in ORDERS
]


@pytest.mark.parametrize("case, first", PAIRS)
@pytest.mark.sweep(2)
def test_killed_and_resumed(tmp_path, case, first):
    with pytest.raises(Killed):
        run(tmp_path / "backup", case, 13, first)
    assert_same(case, run(tmp_path / "backup", case, None, first))
    assert not (tmp_path / "backup").exists()


@pytest.mark.slow
@pytest.mark.parametrize("first", ORDERS)
def test_killed_again_and_again(tmp_path, first):
    for kill in (7, 9, 1, 8, 3, 5):
        with pytest.raises(Killed):
            run(tmp_path / "backup", "automatic", kill, first)
    assert_same("automatic", run(tmp_path / "backup", "automatic", None, first))


@pytest.mark.parametrize("first", ORDERS)
def test_a_backup_within_an_epoch_knows_its_step(tmp_path, first):
    """Keras starts the epoch again, with the weights of step 5; the schedule goes on from step 5 too."""
    with pytest.raises(Killed):
        run(tmp_path / "backup", "magnitude", 6, first, save_freq=5)
    model, prune, seen = network(eager=True), CASES["magnitude"](), []
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append((prune.steps, shares(model))))
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    fit(model, *([backup, prune] if first else [prune, backup]), note, epochs=1)
    assert seen == [(5, asked(schedule()(5)))]
    assert prune.steps == 13 and int(model.optimizer.iterations.numpy()) == 13


def test_in_three_steps_at_once(tmp_path):
    def go(kill, folder):
        model, prune = network(steps_per_execution=3), CASES["magnitude"]()
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / folder), save_freq=4)
        stop = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: _raise(Killed, kill == batch))
        with contextlib.suppress(Killed):
            fit(model, backup, prune, stop, epochs=1)
        return prune

    assert go(5, "a").steps == 6
    resumed = go(None, "a")
    assert resumed.steps == 6 + 8
    assert [step for step, _, _ in resumed.report.history] == [3, 6, 9, 12, 14]


def _raise(kind, when):
    if when:
        raise kind


def test_the_same_objects_go_on_after_an_error(tmp_path):
    model, prune = network(eager=True), CASES["magnitude"]()
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    stop = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: _raise(Killed, prune.steps == 11))
    with pytest.raises(Killed):
        fit(model, prune, backup, stop, epochs=3)
    fit(model, prune, backup, epochs=3)
    for a, b in zip(model.get_weights(), uninterrupted("magnitude")[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_a_checkpoint_carry_the_state(tmp_path):
    """By hand: save_weights in the middle, load_weights in a new model with a new Prune attached."""
    first, prune = network(), CASES["movement"]()
    prune.attach(first)
    for _ in range(9):
        prune.step()
    first.save_weights(tmp_path / "middle.weights.h5")
    second, other = network(), CASES["movement"]()
    other.attach(second)
    second.load_weights(tmp_path / "middle.weights.h5")
    assert other.steps == 9 and other._history == prune._history
    for (name, mask), (again, wanted) in zip(other.masks().items(), prune.masks().items(), strict=True):
        assert name == again
        np.testing.assert_array_equal(mask, wanted)


def test_files_that_belong_to_other_weights_or_other_compressors(tmp_path):
    model = network()
    Prune(0.5, layers="one").attach(model)
    model.save_weights(tmp_path / "one.weights.h5")
    other = network(eager=True)
    with pytest.raises(ModelError, match=r"while other weights were pruned. Give the same `layers`"):
        prune = Prune(0.5)
        prune.set_model(other)
        other.load_weights(tmp_path / "one.weights.h5")
        prune.attach(other)
    assert [v.constraint for v in other.trainable_weights] == [None] * 4


@pytest.mark.slow
def test_killed_for_real(tmp_path):
    here = pathlib.Path(__file__).parent
    command = [sys.executable, str(here / "killed.py"), str(tmp_path / "backup"), "movement"]
    environment = {"PYTHONPATH": f"{here.parents[1]}:{here.parent}:{here}", "CUDA_VISIBLE_DEVICES": "-1"}
    killed = subprocess.run([*command, "13"], env=environment, capture_output=True)
    assert killed.returncode == -9 and (tmp_path / "backup").exists()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    with np.load(tmp_path / "backup-end.npz") as end:
        for name, wanted in zip(end.files, uninterrupted("movement")[0], strict=True):
            np.testing.assert_array_equal(end[name], wanted)
