"""What a kill or a full disk leaves in the middle, made by hand: fast siblings of `test_killed` and `test_lacking`."""

import errno
import os

import keras
import numpy as np
import pytest

import tfstruct
from tfstruct import files
from tfstruct.compression.training import _EpochState


def test_weights_of_other_epochs_go(tmp_path):
    """A process can be killed when the list of epochs names new weights, and the old ones are still there."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    state = _EpochState(tmp_path)
    state.set_model(model)
    state.on_epoch_end(0, {"loss": 1.0})
    for left in ("epoch-0000.weights.h5", "epoch-0002.weights.h5"):
        (tmp_path / left).write_bytes(b"half")
    again = _EpochState(tmp_path)
    again.set_model(model)
    again.on_train_begin()
    assert sorted(os.listdir(tmp_path)) == ["epoch-0001.weights.h5", "training.json"]
    again.on_epoch_end(1, {"loss": 0.5})
    assert sorted(os.listdir(tmp_path)) == ["epoch-0002.weights.h5", "training.json"]


@pytest.fixture
def full_disk(monkeypatch):
    def fail(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fail)


def test_a_full_disk_leaves_the_old_vectors(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    file = tfstruct.to_tflite(model, verification=np.zeros((4, 2), "float32"), verbose=0)
    vectors = tfstruct.convert.test_vectors(file, np.zeros((4, 2), "float32"))
    written = {path: path.read_bytes() for path in vectors.save(tmp_path / "vectors")}
    full = [path for path in written if path.suffix == ".npy"]
    real = files.os.fsync

    def fail(number):  # when the first array is written
        if any(name.endswith(".part") and ".npy" in name for name in os.listdir(tmp_path / "vectors")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left on device"):
        vectors.save(tmp_path / "vectors")
    assert full and {path: path.read_bytes() for path in (tmp_path / "vectors").iterdir()} == written


def test_a_full_disk_leaves_the_old_model(tmp_path, full_disk):
    (tmp_path / "a.keras").write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device"):
        files.save_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), tmp_path / "a.keras")
    assert os.listdir(tmp_path) == ["a.keras"] and (tmp_path / "a.keras").read_bytes() == b"old"
