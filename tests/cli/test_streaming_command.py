"""`tfstruct convert --streaming`."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from streaming.streamed_models import sequences

from tfstruct.cli import commands
from tfstruct.convert import StreamingFile


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model that looks at 12 frames by twos, and sequences."""
    series = keras.Input((12, 4), name="series")
    x = layers.Conv1D(4, 4, strides=2, activation="relu", name="conv")(series)
    x = layers.Dense(3, activation="softmax", name="classes")(layers.GlobalAveragePooling1D(name="pool")(x))
    keras.Model(series, x, name="net").save(tmp_path / "net.keras")
    np.savez(tmp_path / "sequences.npz", x=sequences(10, 40, 4))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return commands.main(["convert", "net.keras", "-o", "net.tflite", *words])


def test_a_file(folder, capsys):
    assert run("--streaming", "--calibration", "sequences.npz", "--no-latency", "--report", "net.json") == 0
    said = capsys.readouterr()
    assert "net, 2 frames a call" in said.out and "bytes a stream" in said.out and not said.err
    report = json.loads((folder / "net.json").read_text())
    assert report["streaming"]["hop"] == 2 and report["state_bytes"] > 0
    assert report["recipe"]["calibration"] == "sequences.npz"
    assert StreamingFile("net.tflite").run(sequences(1, 40, 4)).shape == (1, 15, 3)
    assert commands.main(["inspect", "net.tflite"]) == 0
    assert "a call takes" in capsys.readouterr().out
    assert run("--streaming", "--hop", "4", "--quiet", "--overwrite", "--no-latency") == 0
    assert StreamingFile("net.tflite").plan.hop == 4 and not capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["--hop", "2"], "--hop is for --streaming"),
        (["--windows", "conv"], "--windows is for --streaming"),
        (["--streaming", "--hop", "3"], "`hop` must be a multiple of 2"),
        (["--streaming", "--window", "9"], "has 12 frames: leave it out"),
        (["--streaming", "--windows", "nobody"], "names no layer that gets frames"),
        (["--streaming", "--input-shape", "12,4"], "--input-shape is not for --streaming"),
        (["--streaming", "--batch-size", "2"], "leave --batch-size out"),
        (["--streaming", "--time-axis", "7"], "`time_axis` 7 is none of"),
    ],
)
def test_bad_input(folder, capsys, words, said):
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (folder / "net.tflite").exists()


def test_a_layer_that_cannot_stream(folder, capsys):
    series = keras.Input((12, 4), name="series")
    keras.Model(series, layers.Bidirectional(layers.GRU(3), name="both")(series)).save("net.keras")
    assert run("--streaming") == 2
    assert "`both` cannot stream" in capsys.readouterr().err
    assert run("--streaming", "--windows", "both", "--no-latency", "--quiet") == 0
