"""The jobs of three newcomers, each played by a script that keeps to what the README and the pages say."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from tfstruct import convert, demo
from tfstruct.convert import micro

HERE = pathlib.Path(__file__).parent
pytestmark = pytest.mark.slow


def _script(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_model_that_tfmot_wrapped_becomes_a_pruned_and_quantized_one(tmp_path, capsys):
    figures = _script("tfmot_user").main(str(tmp_path))
    said = capsys.readouterr().out
    assert "stem, pointwise, down, classes: took off pruning, kept its mask (50% zeros)" in said
    assert figures["difference to Keras 2"] < 1e-4
    assert figures["zeros"] == 0.5 and figures["zeros in the file"] >= 0.45
    assert figures["top-1 equal to the twin"] > 0.95 and figures["accuracy of Keras"] > 0.6
    assert abs(figures["accuracy of the file"] - figures["accuracy of Keras"]) < 0.05
    twin = keras.models.load_model(tmp_path / "quantized.keras")
    assert twin.ranges() and (tmp_path / "model.tfpack").stat().st_size < (tmp_path / "model.tflite").stat().st_size


def test_a_residual_network_is_explained_pruned_while_training_and_shrunk(tmp_path, capsys):
    figures = _script("researcher").main(str(tmp_path))
    assert figures["accuracy"] > 0.9 and figures["while training"] > figures["at once"]
    assert figures["while training"] > figures["accuracy"] - 0.05
    assert figures["share of MACs"] <= 0.5 and figures["largest difference"] < 1e-4
    assert {p.suffix for p in tmp_path.iterdir()} == {".svg", ".png", ".json", ".html", ".keras"}
    assert "frozen: the model's own output" in capsys.readouterr().out


def _engineers_folder(folder, model):
    """`digits.h5`, trained on pixels in 0..1, and PNGs, a folder for each class."""
    import tensorflow as tf

    model.save(folder / "digits.h5")
    (x, y), (x_test, y_test) = demo.digits()
    for name, images, labels in (("train", x[:200], y[:200]), ("test", x_test[:100], y_test[:100])):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / "images" / name / str(label)
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.round(image / 16 * 255).astype("uint8")
            (place / f"{i:03}.png").write_bytes(tf.io.encode_png(pixels).numpy())


def _network():
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 8, 1), name="image"), layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
        layers.MaxPooling2D(), layers.Conv2D(24, 3, padding="same", activation="relu", name="conv2"),
        layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax", name="classes"),
    ])  # fmt: skip
    (x, y), _ = demo.digits()
    model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
    model.fit(x / 16, y, epochs=12, verbose=0)
    return model


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_an_engineer_gets_the_array_the_arena_and_the_scales_of_an_h5_file(tmp_path):
    _engineers_folder(tmp_path, _network())
    (bin_folder := tmp_path / "bin").mkdir()
    command = bin_folder / "tfstruct"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tfstruct "$@"\n')
    command.chmod(0o755)
    where = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": where}
    done = subprocess.run(
        ["bash", str(HERE / "embedded_engineer.sh")], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr

    header, content = (tmp_path / "net.h").read_text(), (tmp_path / "net.tflite").read_bytes()
    (port,) = convert.describe(tmp_path / "net.tflite").inputs
    scale = float(re.search(r"float net_input_scale = ([\d.e-]+)f;", header)[1])
    assert scale == pytest.approx(port.scale, rel=1e-5) and scale == pytest.approx(1 / 255, rel=0.05)
    assert f"int net_input_zero_point = {port.zero_point};" in header
    assert "resolver.AddConv2D();" in header
    if micro.version() is not None:
        assert int(re.search(r"net_arena_bytes = (\d+);", header)[1]) == micro.arena_bytes(content)
    assert json.loads((tmp_path / "net.json").read_text())["inputs"]
    assert "conv1" in (tmp_path / "times.txt").read_text()  # the time of each operator, with its layer
    vectors = tmp_path / "net_vectors"
    assert np.load(vectors / "input0_image.npy").shape == (4, 8, 8, 1) and (vectors / "main.cc").exists()
    if shutil.which("g++"):
        _compiled_array_is(tmp_path, content)


def _compiled_array_is(folder, content):
    """The array that a compiler makes of net.cc is the file, byte by byte."""
    (folder / "dump.cc").write_text(
        '#include <cstdio>\n#include "net.h"\nint main() { return fwrite(net, 1, net_len, stdout) != net_len; }\n'
    )
    subprocess.run(["g++", "-std=c++17", "dump.cc", "net.cc", "-o", "dump"], cwd=folder, check=True)
    assert subprocess.run([folder / "dump"], capture_output=True, check=True).stdout == content
