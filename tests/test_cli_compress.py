"""`tfstruct-convert --budget`: a file within the budget, exit statuses, and errors of one line before any work."""

import json

import numpy as np
import pytest

from tfstruct import cli, demo


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
        *DATA, "--budget", "accuracy_drop=1%,macs=60%", "--epochs", "0", "--report", str(tmp_path / "r.json")
    )
    report = json.loads((tmp_path / "r.json").read_text())
    assert status == 1 and "The budget is missed: accuracy" in error and len(error.splitlines()) == 1
    assert len(out.read_bytes()) == report["result"]["tflite_bytes"]
    assert report["result"]["macs"] <= 0.6 * report["original"]["macs"] and report["test"] == {}
    assert "does prune_channels: channels go at once until macs" in said and f"wrote {out}" in said.replace("\n", "")


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


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--budget", "macs=50%"), "--train is missing"),
        ((*DATA, "--budget", "mac=50%"), "`budget` knows accuracy_drop, macs"),
        ((*DATA, "--budget", "macs=much"), "`macs` in the budget must be a number or a percentage"),
        ((*DATA, "--budget", "macs=50%", "--precision", "int8"), "--budget decides by itself what --precision"),
        ((*DATA, "--budget", "macs=50%", "--report", "r.html"), "ends in .json"),
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
