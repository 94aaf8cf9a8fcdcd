"""Whatever is wrong: one line on stderr that says what to do, an exit status, and no file."""

import keras
import numpy as np
import pytest

from tfstruct.cli import commands, looking


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad")
    keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, name="head")]).save(path / "net.keras")
    np.savez(path / "data.npz", x=np.zeros((4, 4), "float32"))
    np.savez(path / "other.npz", x=np.zeros((4, 7), "float32"))
    (path / "junk.tflite").write_bytes(b"no model at all")
    (path / "junk.tfpack").write_bytes(b"no container at all")
    (path / "plan.json").write_text('{"format": 1, "model": "x", "keep": 3, "widths": {}}')
    (path / "list.json").write_text("[1")
    return path


CASES = {
    "no command": (["--verbose"], "unrecognized arguments: --verbose"),
    "a model first": (["net.keras", "-o", "net.tflite"], "A command comes first, such as: tfstruct convert net.keras"),
    "a command misspelled": (["inspekt", "net.keras"], "Did you mean inspect?"),
    "another command": (["train", "net.keras"], "must be one of convert, compress"),
    "no model": (["explain"], "arguments are required: MODEL"),
    "an option misspelled": (["explain", "net.keras", "--plott", "x.svg"], "Did you mean --plot?"),
    "no file": (["explain", "none.keras"], "There is no file none.keras"),
    "no output": (["convert", "net.keras"], "Expected: -o OUT.tflite"),
    "a fraction": (["convert", "net.keras", "-o", "x.tflite", "--scale", "1/zero"], "such as 0.5 or 1/255"),
    "a division by zero": (["convert", "net.keras", "-o", "x.tflite", "--scale", "1/0"], "such as 0.5 or 1/255"),
    "a mean": (["convert", "net.keras", "-o", "x.tflite", "--mean", "a"], "--mean expects numbers"),
    "a share": (["convert", "net.keras", "-o", "x.tflite", "--min-accuracy", "83%%"], "such as 0.83 or 83%"),
    "a precision": (["convert", "net.keras", "-o", "x.tflite", "--precision", "int7"], "choose from"),
    "int8 without data": (["quantize", "net.keras", "-o", "x.tflite"], "needs calibration data"),
    "no budget": (["compress", "net.keras", "-o", "x.tflite"], "A compression needs a budget"),
    "no training data": (["compress", "net.keras", "-o", "x.tflite", "--budget", "macs=50%"], "--train is missing"),
    "no plan": (["prune", "net.keras", "-o", "x.keras"], "--budget macs=50%"),
    "a budget": (["prune", "net.keras", "--budget", "mcs=50%"], "knows"),
    "a share of channels": (["prune", "net.keras", "--budget", "half"], "the share of every group"),
    "a criterion": (["prune", "net.keras", "--budget", "50%", "--criterion", "best"], "best"),
    "a criterion without data": (["prune", "net.keras", "--budget", "50%", "--criterion", "gradient"], "--data DATA"),
    "a suffix": (["prune", "net.keras", "--budget", "50%", "-o", "x.tflite"], "-o expects a name that ends in .keras"),
    "a plan's suffix": (["prune", "net.keras", "--budget", "50%", "--save-plan", "x.txt"], "ends in .json"),
    "a missing plan": (["prune", "net.keras", "--plan", "none.json"], "there is no file none.json"),
    "a damaged plan": (["prune", "net.keras", "--plan", "plan.json"], "plan"),
    "no plan at all": (["prune", "net.keras", "--plan", "list.json"], "is not a plan of channels"),
    "nothing can go": (["prune", "net.keras", "--budget", "macs=50%", "-o", "x.keras"], "head"),
    "a tolerance": (["shrink", "net.keras", "--tolerance", "-1", "-o", "x.keras"], "`tolerance` must be 0.0 or larger"),
    "a report": (["explain", "net.keras", "--report", "x.pdf"], "--report expects a name that ends in .html"),
    "a picture": (["explain", "net.keras", "--plot", "x.bmpp"], "bmpp"),
    "a damaged file": (["inspect", "junk.tflite"], "Expected a .tflite file"),
    "a damaged file to profile": (["profile", "junk.tflite"], "Expected a .tflite file"),
    "a damaged file to pack": (["pack", "junk.tflite", "-o", "x.tfpack"], "Expected a .tflite file"),
    "a damaged file to verify": (["verify", "junk.tflite", "net.keras", "data.npz"], "Expected a .tflite file"),
    "a damaged container": (["unpack", "junk.tfpack", "-o", "x.keras"], "is no packed model"),
    "a missing container": (["unpack", "none.tfpack", "-o", "x.keras"], "There is no file none.tfpack"),
    "a missing .tflite": (["inspect", "none.tflite"], "No such file"),
    "missing data": (["verify", "junk.tflite", "net.keras", "none.npz"], "there is no file or folder none.npz"),
    "a device": (["inspect", "net.keras", "--target", "moon"], "moon"),
    "a file of boards": (["inspect", "net.keras", "--target", "micro", "--boards", "plan.json"], "is no TOML file"),
    "a missing file of boards": (["inspect", "net.keras", "--boards", "none.toml"], "none.toml"),
    "seconds": (["profile", "junk.tflite", "--seconds", "0"], "--seconds must be positive"),
    "a table of times": (["profile", "net.keras", "--latency-table", "data.npz"], "not a latency table"),
    "threads": (["profile", "net.keras", "--threads", "many"], "expected a positive whole number"),
    "a shell": (["completion", "fish"], "choose from"),
    "an output that is there": (["shrink", "net.keras", "-o", "net.keras"], "Use --overwrite"),
    "a folder that is not": (["shrink", "net.keras", "-o", "none/x.keras"], "Create it first"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, folder, monkeypatch, capsys):
    arguments, says = CASES[case]
    monkeypatch.chdir(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    status = commands.main(arguments)
    printed, said = capsys.readouterr()
    assert (status, printed) == (2, ""), said
    assert len(said.splitlines()) == 1 and said.startswith("tfstruct: ") and says in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_fault_of_ours_is_one_line_too(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(looking, "load_model", lambda options: 1 / 0)
    assert commands.main(["explain", "net.keras"]) == 3
    assert capsys.readouterr().err == (
        "tfstruct: a fault of tfstruct: ZeroDivisionError: division by zero. -v shows where.\n"
    )
    assert commands.main(["explain", "net.keras", "-v"]) == 3
    assert "Traceback" in capsys.readouterr().err
