"""`tfstruct-convert --budget`: a file within the budget, exit statuses, and errors of one line before any work."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tfstruct import cli, demo

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits_model):
    path = tmp_path_factory.mktemp("compress")
    (x, y), (test, labels) = demo.digits()
    digits_model.save(path / "digits.keras")
    np.savez(path / "train.npz", x=x[:1000], y=y[:1000])
    np.savez(path / "validation.npz", x=x[1000:], y=y[1000:])
    np.savez(path / "test.npz", x=test, y=labels)
    return path


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def go(*arguments):
        out = tmp_path / "out.tflite"
        status = cli.main(["digits.keras", "-o", str(out), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err, out

    return go


DATA = ("--train", "train.npz", "--validation", "validation.npz")


def test_without_training_the_budget_is_missed_and_the_best_is_written(run, tmp_path):
    status, said, error, out = run(
        *DATA, "--budget", "accuracy_drop=1%,macs=60%", "--epochs", "0", "--report", str(tmp_path / "r.json"),
        "--strategy", "optimize,prune_channels,quantize",
    )  # fmt: skip
    report = json.loads((tmp_path / "r.json").read_text())
    assert status == 1 and "The budget is missed: accuracy" in error and len(error.splitlines()) == 1
    assert len(out.read_bytes()) == report["result"]["tflite_bytes"]
    assert report["result"]["macs"] <= 0.6 * report["original"]["macs"] and report["test"] == {}
    assert "does prune_channels: asked for" in said and f"wrote {out}" in said.replace("\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["auto", "optimize,prune_channels,quantize"])
def test_a_strategy_by_name_or_by_steps(run, tmp_path, strategy):
    status, said, error, out = run(
        *DATA, "--budget", "accuracy_drop=20%,macs=60%", "--epochs", "2", "--learning-rate", "0.003", "--json",
        "--strategy", strategy, "--workdir", str(tmp_path / "work"),
    )  # fmt: skip
    report = json.loads(said)
    assert (status, error) == (0, "") and out.exists()
    assert report["result"]["macs"] <= 0.6 * report["original"]["macs"]
    assert any("predicted loss" in one["reason"] for one in report["decisions"]) is (strategy == "auto")


@pytest.mark.slow
def test_within_the_budget(run, tmp_path):
    arguments = (
        *DATA, "--test", "test.npz", "--budget", "accuracy_drop=3%,macs=60%", "--epochs", "8", "--learning-rate",
        "0.003", "--workdir", str(tmp_path / "work"), "--c-array", "--json",
    )  # fmt: skip
    status, said, error, out = run(*arguments)
    report = json.loads(said)
    assert (status, error) == (0, "")
    assert report["test"]["result"] > 0.9 and out.with_suffix(".cc").exists()
    content = out.read_bytes()
    status, said, _, _ = run(*arguments, "--overwrite")  # everything is in the working folder
    assert status == 0 and out.read_bytes() == content
    assert json.loads(said)["result"] == report["result"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sign", ["alternatives/damages/*.json", "02-*/training/training.json", "03-quantize/training/training.json"]
)
def test_killed_with_sigkill_it_goes_on_to_the_same_file(folder, tmp_path, sign):
    """The process dies as soon as an alternative or an epoch of a stage is on disk; the second call writes what one
    call would have."""
    command = [
        sys.executable, "-c", "from tfstruct.cli import run; run()", "digits.keras", *DATA, "--budget", "macs=60%",
        "--epochs", "6", "--learning-rate", "0.003", "--quiet",
    ]  # fmt: skip

    def arguments(name):
        return [*command, "-o", str(tmp_path / f"{name}.tflite"), "--workdir", str(tmp_path / name)]

    options = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    killed = subprocess.Popen(arguments("killed"), **options)
    while not any((tmp_path / "killed").glob(sign)):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and not (tmp_path / "killed.tflite").exists()
    for name in ("killed", "whole"):
        subprocess.run(arguments(name), check=True, **options)
    assert (tmp_path / "killed.tflite").read_bytes() == (tmp_path / "whole.tflite").read_bytes()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--budget", "macs=50%"), "--train is missing"),
        ((*DATA, "--budget", "mac=50%"), "`budget` knows accuracy_drop, macs"),
        ((*DATA, "--budget", "macs=much"), "`macs` in the budget must be a number or a percentage"),
        ((*DATA, "--budget", "macs=50%", "--precision", "int8"), "--budget decides by itself what --precision"),
        ((*DATA, "--budget", "macs=50%", "--report", "r.txt"), "ends in .html or .json"),
        (
            ("--train", "none.npz", "--validation", "validation.npz", "--budget", "macs=50%"),
            "--train: there is no file",
        ),
        (("--epochs", "3"), "--epochs belongs to a compression, which needs --budget"),
        ((*DATA, "--budget", "macs=50%", "--strategy", "magic"), "A step must be one of"),
        ((*DATA, "--budget", "macs=50%", "--target", "moon"), "moon"),
        ((*DATA, "--budget", "macs=50%", "--metric", "magic"), "`metric` must be one of accuracy, loss"),
    ],
)
def test_bad_input(run, arguments, said):
    status, out, error, file = run(*arguments)
    assert status == 2 and said in error and len(error.splitlines()) == 1 and out == ""
    assert not file.exists()


def test_the_help_names_the_strategies_that_there_are():
    from tfstruct.cli.arguments import parser
    from tfstruct.compression.compressing import BY_NAME

    (strategy,) = [action for action in parser().arguments() if action.dest == "strategy"]
    named, _, steps = strategy.help.partition(", or steps: ")
    assert named.split(", ") == [*BY_NAME] and steps.startswith("optimize, prune_channels")
