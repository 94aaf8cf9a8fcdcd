"""The command on good input: what it writes, prints and returns."""

import argparse
import contextlib
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tfstruct import cli, demo
from tfstruct.cli import demonstration, exit_status
from tfstruct.cli.arguments import parser
from tfstruct.precisions import OF_FILES

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits_model):
    """A model, training and test data as a user would have them."""
    path = tmp_path_factory.mktemp("cli")
    (x, y), (test, labels) = demo.digits()
    digits_model.save(path / "digits.keras")
    np.savez(path / "train.npz", x=x[:400], y=y[:400])
    np.savez(path / "test.npz", x=test, y=labels)
    return path


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def go(*arguments, model="digits.keras"):
        out = tmp_path / "out.tflite"
        status = cli.main([model, "-o", str(out), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err, out

    return go


INT8 = ("--precision", "int8", "--calibration", "train.npz")


def test_int8(run):
    status, said, error, out = run(*INT8, "--verify", "test.npz", "--per-layer")
    assert (status, error) == (0, "")
    assert out.read_bytes()[4:8] == b"TFL3"
    assert "none: every compute operator is integer" in said
    assert re.search(r"accuracy +TFLite 9\d\.\d\d%, Keras 9\d\.\d\d%", said)
    assert "loses most" in said and f"wrote {out}" in said.replace("\n", "")


def test_calibration_data_alone_means_int8(run):
    status, said, error, _ = run("--calibration", "train.npz")
    assert (status, error) == (0, "")
    assert said.startswith("precision: int8, as --calibration was given without --precision")
    assert "none: every compute operator is integer" in said


def test_optimized_first(run):
    status, said, error, out = run("--optimize", "--verify", "test.npz")
    assert (status, error) == (0, "")
    assert re.search(r"optimized: \d+ changes: parameters", said)
    assert out.read_bytes()[4:8] == b"TFL3"


@pytest.mark.slow
def test_all_precisions(run):
    status, said, error, out = run("--all-precisions", "--calibration", "train.npz", "--verify", "test.npz")
    assert (status, error) == (0, "")
    assert sorted(p.name for p in out.parent.iterdir()) == sorted(f"out.{p}.tflite" for p in OF_FILES)
    for precision in OF_FILES:
        assert re.search(rf"{precision} .*9\d\.\d\d%", said)


def test_below_a_threshold_writes_the_file_and_returns_1(run):
    status, _, error, out = run(*INT8, "--verify", "test.npz", "--min-accuracy", "0.9999", "--min-sqnr", "1")
    assert status == 1
    assert out.exists()
    assert len(error.splitlines()) == 1
    assert "accuracy is 0." in error and "expected at least 0.9999" in error and "sqnr" not in error


def test_reports_as_json_and_html(run, tmp_path):
    status, said, _, _ = run(*INT8, "--json", "--report", str(tmp_path / "r.json"))
    data = json.loads(said)
    assert status == 0 and data["precision"] == "int8" and data == json.loads((tmp_path / "r.json").read_text())
    status, said, _, _ = run(*INT8, "--overwrite", "--quiet", "--per-layer", "--report", str(tmp_path / "r.html"))
    page = (tmp_path / "r.html").read_text()
    assert (status, said) == (0, "")
    assert "Noise by layer" in page and "conv2" in page


def test_keep_float_and_layer_options(run):
    status, said, _, _ = run(*INT8, "--keep-float", "classes", "--layer", "conv1=int16x8", "--allow-float", "--json")
    types = {op["layers"][-1]: op["dtype"] for op in json.loads(said)["operators"] if op["name"] == "CONV_2D"}
    assert status == 0
    assert types == {"relu1": "int16", "relu2": "int8", "relu3": "int8"}
    assert {op["name"] for op in json.loads(said)["float_operators"]} == {"FULLY_CONNECTED", "SOFTMAX"}


def test_preprocessing_and_shape_options(run, folder, tmp_path):
    (x, _), _ = demo.digits()
    np.save(tmp_path / "small.npy", (x[:100] / 16 - 0.5))
    status, said, error, _ = run(
        "--precision", "int8", "--calibration", str(tmp_path / "small.npy"), "--mean", "-0.5", "--std", "0.0625",
        "--input-shape", "8,8,1", "--batch-size", "2", "--calibrator", "entropy", "--json",
        "--input-type", "uint8", "--output-type", "classes=float32",
    )  # fmt: skip
    assert (status, error) == (0, "")
    assert json.loads(said)["recipe"]["input_type"] == "uint8"
    assert [op["name"] for op in json.loads(said)["operators"]][:: len(json.loads(said)["operators"]) - 1] == [
        "QUANTIZE",
        "DEQUANTIZE",
    ]
    assert json.loads(said)["recipe"]["batch_size"] == 2


def test_target_c_array_and_latency(run, tmp_path):
    rows = [{"operator": "CONV_2D", "shapes": [[1, 4], [1, 4]], "macs": 9216, "microseconds": 50}]
    (tmp_path / "board.json").write_text(json.dumps({"processor": "Cortex-M4", "rows": rows}))
    device = ("--target", "micro", "--c-array", "--profile", "--latency-table", str(tmp_path / "board.json"))
    status, said, error, out = run(*INT8, *device)
    assert (status, error) == (0, "")
    assert re.search(r"fits +yes: 6 of 6 operators", said) and "AddConv2D" in said
    assert "CONV_2D (conv1, norm1, relu1), alone" in said and "Cortex-M4" in said
    assert "out_add_operators" in out.with_suffix(".h").read_text()
    assert "alignas(16)" in out.with_suffix(".cc").read_text()
    out.unlink()
    status, _, error, _ = run(*INT8, "--c-array")
    assert status == 2 and "out.h exists already. Use --overwrite" in error


@pytest.fixture
def odd(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="gelu", name="odd")], name="net")
    model.save(tmp_path / "odd.keras")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 4)).astype("float32"))
    return tmp_path


def test_latency_is_left_out_where_asked(run, odd):
    status, said, error, out = run("--precision", "float32", "--no-latency", model=str(odd / "odd.keras"))
    assert (status, error) == (0, "") and out.exists()
    assert re.search(r"latency +not measured, as asked", said) and "median" not in said


def test_an_operator_outside_the_target_is_status_1_before_and_after(run, odd, capsys):
    """Of the untrained model, of the conversion, and of the file."""
    model, named = str(odd / "odd.keras"), "GELU (layer odd): "
    status, said, error, out = run("--target", "edgetpu", "--check-only", "--precision", "int8", model=model)
    assert status == 1 and named in error and "Use ReLU" in error and len(error.splitlines()) == 1
    assert "does not fit" in said and not out.exists()
    data = ("--precision", "int8", "--calibration", str(odd / "x.npy"), "--no-range-check")
    status, said, error, out = run(*data, "--target", "edgetpu", model=model)
    assert status == 1 and named in error and out.exists()
    status = cli.main([str(out), "--target", "edgetpu", "--check-only", "--json"])
    said = capsys.readouterr()
    assert status == 1 and "GELU (layer odd" in said.err
    assert json.loads(said.out)["fits"] is False
    status = cli.main([str(out), "--target", "mobile", "--check-only"])
    assert status == 0


@pytest.mark.parametrize(
    "arguments, match",
    [
        (["--check-only"], "--check-only needs a device"),
        (["--check-only", "--target", "toaster"], "must be one of mobile, "),
        (["--latency-table", "missing.json"], "There is no file missing.json"),
        (["--latency-table", "train.npz"], "not a latency table"),
    ],
)
def test_bad_device_options(run, arguments, match):
    status, said, error, out = run(*arguments)
    assert (status, said) == (2, "") and match in error and not out.exists() and len(error.splitlines()) == 1


def as_a_user(out: pathlib.Path) -> list[str]:
    """The command as a process of its own."""
    return [sys.executable, "-c", "from tfstruct.cli import run; run()", "digits.keras", "-o", str(out)]


def test_as_a_user_runs_it(folder, tmp_path):
    """A process of its own, in a pipe: no progress bar, no TensorFlow chatter."""
    command = as_a_user(tmp_path / "o.tflite")
    done = subprocess.run([*command, *INT8], capture_output=True, text=True, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert again.returncode == 2 and again.stdout == ""
    assert again.stderr.startswith("tfstruct-convert: ") and again.stderr.count("\n") == 1


@pytest.mark.slow
def test_told_to_end_it_leaves_nothing(folder, tmp_path):
    command = as_a_user(tmp_path / "o.tflite")
    place = tmp_path / "temporary"
    place.mkdir()
    running = subprocess.Popen(
        [*command, *INT8], cwd=folder, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(place)}
    )
    while not os.listdir(place):
        assert running.poll() is None
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate()
    assert (running.returncode, said) == (143, "tfstruct-convert: stopped by SIGTERM\n")
    assert os.listdir(place) == [] and not (tmp_path / "o.tflite").exists()


def test_progress_bar_on_a_terminal(run, monkeypatch):
    master, terminal = pty.openpty()
    shown = []

    def read():
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(master, 4096):
                shown.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(terminal, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        status, said, _, _ = run(*INT8)
    reader.join()
    os.close(master)
    assert status == 0, b"".join(shown).decode()
    assert b"calibrate" in b"".join(shown)
    assert "calibrate" not in said


def test_a_second_sigterm_does_not_interrupt_what_the_first_one_began(monkeypatch):
    monkeypatch.setattr(exit_status, "_told", [])
    with pytest.raises(exit_status._Terminated):
        exit_status._end(signal.SIGTERM, None)
    exit_status._end(signal.SIGTERM, None)
    monkeypatch.setattr(exit_status, "_told", [exit_status._told[0] - 10])  # it has not ended since
    with pytest.raises(exit_status._Terminated):
        exit_status._end(signal.SIGTERM, None)


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as status:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert status.value.code == 0
    assert len(re.findall(r"^  tfstruct-convert ", text, re.MULTILINE)) == 4
    assert "exit status: 0 fine, 1 converted but below what was asked, 2 bad input" in text
    for action in parser()._actions:
        default = getattr(action, "default", None)
        if default not in (None, False, [], argparse.SUPPRESS):
            shown = text[text.index(f"  {action.option_strings[-1]} ") :].split("\n  --")[0]
            assert f"default: {default}" in " ".join(shown.split()), action.option_strings


def test_demo(capsys, monkeypatch, digits_model):
    monkeypatch.setattr(demo, "train", lambda x, y: digits_model)
    # Less than the user sees: one epoch, without rounding in training.
    monkeypatch.setattr(demonstration, "EPOCHS", 1)
    monkeypatch.setattr(demonstration, "BUDGET", "macs=50%")
    assert cli.main(["--demo"]) == 0
    said = capsys.readouterr().out
    assert "540 unseen ones" in said and "does auto: of the choices within the budget (macs " in said
    assert "budget (macs=0.5) met" in said
    assert all(f"│ {precision} " in said for precision in OF_FILES)


def test_readme_set_up_has_two_commands():
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    (.+)$", text.split("## Set up")[1].split("\n## ")[0], re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("tfstruct-convert --demo") and commands[1].endswith("pytest -n 2")
