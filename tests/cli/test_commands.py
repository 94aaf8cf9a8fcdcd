"""`tfstruct COMMAND`: what each command prints, writes and returns, in the words of the library's own reports."""

import json
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from keras import layers

import tfstruct
from tfstruct import convert
from tfstruct.cli import commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with half of a layer at zero, its int8 file, and data."""
    path = tmp_path_factory.mktemp("commands")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.Conv2D(8, 3, activation="relu", name="deep"),
            layers.GlobalAveragePooling2D(name="gap"),
            layers.Dense(3, name="head"),
        ],
        name="net",
    )
    kernel, bias = model.get_layer("deep").get_weights()
    kernel[..., :4] = 0.0
    model.get_layer("deep").set_weights([kernel, bias])
    model.save(path / "net.keras")
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, size=(32, 8, 8, 1)).astype("float32")
    np.savez(path / "data.npz", x=x, y=rng.integers(0, 3, 32))
    file = tfstruct.to_tflite(model, "int8", calibration=x / 255, measure_latency=False)
    file.save(path / "net.tflite")
    return path


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def go(*arguments):
        capsys.readouterr()
        status = commands.main([str(one) for one in arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return go


def test_convert_says_where_it_is(run, tmp_path):
    """In a pipe a line a stage; beside JSON on stderr."""
    out = tmp_path / "net.tflite"
    options = ("--calibration", "data.npz", "--scale", "1/255", "--no-latency")
    status, said, error = run("quantize", "net.keras", "-o", out, *options)
    assert (status, error) == (0, "") and out.exists()
    assert re.match(r"\[\d:\d\d\] open\n\[\d:\d\d\] export\n", said)
    assert "int8 (by litert)" in said and f"wrote {out}" in said.replace("\n", "")
    status, said, error = run("convert", "net.keras", "-o", out, "--overwrite", "--no-latency", "--json")
    assert status == 0 and json.loads(said)["precision"] == "float32" and "] convert\n" in error


def test_inspect_of_a_model_and_of_a_file(run):
    status, said, error = run("inspect", "net.keras")
    assert (status, error) == (0, "") and "50.0%" in said and "MACs: 11,832" in said
    status, said, _ = run("inspect", "net.tflite", "--target", "mobile", "--json")
    file, target = json.loads(said)
    assert status == 0 and target["fits"] and file["inputs"][0]["name"] == "image"
    assert file["inputs"][0]["scale"] == pytest.approx(1 / 255, rel=1e-2)
    deep = next(one for one in file["operators"] if one["layers"] == ["deep"])
    assert deep["weights"] == "int8" and deep["macs"] == 9216 and deep["zeros"] >= 0.5


def test_inspect_shows_all_devices_in_one_table(run, tmp_path):
    status, said, error = run("inspect", "net.tflite", "--target", "all", "--json")
    table = json.loads(said)[1]
    assert status == 0 and error == ""
    assert table["operators"]["FULLY_CONNECTED"]["gpu"] == "yes" and "google-tensor" in table["unknown"]
    status, said, _ = run("inspect", "net.tflite", "--target", "All", "--report", tmp_path / "table.csv")
    assert status == 0 and "operators against" in said and "cortex-m4:nano33ble" in said
    assert (tmp_path / "table.csv").read_text().startswith("operator,count,mobile,")


def test_boards_of_a_file_are_targets(run, folder, monkeypatch):
    from tfstruct.convert.devices import boards

    monkeypatch.setattr(boards, "_BOARDS", dict(boards._BOARDS))
    (folder / "boards.toml").write_text('["cortex-m4:tiny"]\nflash = "1 KB"\nram = "1 KB"\n')
    status, said, error = run("inspect", "net.tflite", "--target", "cortex-m4:tiny", "--boards", "boards.toml")
    assert status == 1 and "cortex-m4:tiny: does not fit" in said
    assert error.count("\n") == 1 and "flash of cortex-m4:tiny does NOT fit: the file takes" in error


def test_a_table_is_no_target_of_a_conversion(run):
    status, _, error = run("convert", "net.keras", "-o", "x.tflite", "--target", "all")
    assert status == 2 and "`tfstruct inspect` and --check-only show" in error
    status, said, error = run("convert", "net.tflite", "--target", "all", "--check-only", "--json")
    assert status == 0 and json.loads(said)["operators"] and error == ""


def test_inspect_asks_for_targets_before_it_loads(run):
    status, said, error = run("inspect", "net.keras", "--target", "toaster")
    assert (status, said) == (2, "") and "must be one of mobile, " in error


def test_explain_draws(run, tmp_path):
    status, said, error = run("explain", "net.keras", "--plot", tmp_path / "groups.svg", "--report", tmp_path / "g.md")
    assert (status, error) == (0, "") and "16 of 19 channels (84%) can go" in said
    assert (tmp_path / "groups.svg").read_text().count("<svg") == 1 and "| conv |" in (tmp_path / "g.md").read_text()


def test_a_plan_is_made_edited_and_applied(run, tmp_path):
    plan, smaller = tmp_path / "plan.json", tmp_path / "smaller.keras"
    status, said, error = run("prune", "net.keras", "--budget", "macs=50%", "--save-plan", plan)
    assert (status, error) == (0, "") and "macs: 11,832 -> " in said and not smaller.exists()
    data = json.loads(plan.read_text())
    data["keep"]["deep"] = [4, 5]
    plan.write_text(json.dumps(data))
    status, said, error = run("prune", "net.keras", "--plan", plan, "-o", smaller)
    assert (status, error) == (0, "") and keras.models.load_model(smaller).get_layer("deep").filters == 2
    status, _, error = run("prune", "net.keras", "--plan", plan, "--criterion", "l1", "-o", tmp_path / "x.keras")
    assert status == 2 and "Leave --criterion out" in error


def test_prune_by_a_criterion_that_looks_at_data(run, tmp_path):
    smaller = tmp_path / "smaller.keras"
    options = ("--criterion", "gradient", "--data", "data.npz", "--scale", "1/255", "--samples", "16")
    status, _, error = run("prune", "net.keras", "--budget", "50%", *options, "--loss", "nonsense", "-o", smaller)
    assert status == 2 and "--loss must be one that Keras knows" in error and not smaller.exists()
    loss = "sparse_categorical_crossentropy"
    status, _, error = run("prune", "net.keras", "--budget", "50%", *options, "--loss", loss, "-o", smaller)
    assert (status, error) == (0, "")
    assert keras.models.load_model(smaller).get_layer("conv").filters == 4


def test_shrink_keeps_the_outputs(run, tmp_path, folder):
    smaller = tmp_path / "smaller.keras"
    status, said, error = run("shrink", "net.keras", "-o", smaller)
    assert (status, error) == (0, "") and "4 channels removed" in said
    x = np.load(folder / "data.npz")["x"]
    before, after = (keras.models.load_model(file)(x) for file in (folder / "net.keras", smaller))
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)


def test_verify_ends_by_its_thresholds(run):
    arguments = ("verify", "net.tflite", "net.keras", "data.npz", "--scale", "1/255")
    status, said, error = run(*arguments, "--min-sqnr", "10", "--min-agreement", "50%")
    assert (status, error) == (0, "") and "verified on 32 samples" in said
    status, _, error = run(*arguments, "--min-sqnr", "200")
    assert status == 1 and "sqnr_db is" in error and len(error.splitlines()) == 1


def test_profile_of_a_file_and_by_a_table(run, tmp_path):
    table = tmp_path / "times.json"
    status, said, error = run("profile", "net.tflite", "--seconds", "0.001", "--report", table)
    assert (status, error) == (0, "") and "times of 4 operators" in said
    status, said, error = run("profile", "net.tflite", "--latency-table", table)
    assert (status, error) == (0, "") and said.count(" measured │") == 4


@pytest.mark.parametrize("source", ["net.tflite", "net.keras"])
def test_packed_and_back(run, tmp_path, folder, source):
    packed, back = tmp_path / "net.tfpack", tmp_path / source
    status, said, error = run("pack", source, "-o", packed)
    assert (status, error) == (0, "") and "all: packed" in said
    assert run("unpack", packed, "-o", back) == (0, f"wrote {back}\n", "")
    if source.endswith(".tflite"):
        assert back.read_bytes() == (folder / source).read_bytes()
    else:
        weights = (keras.models.load_model(file).get_weights() for file in (back, folder / source))
        assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    other = back.with_suffix(".keras" if source.endswith(".tflite") else ".tflite")
    status, _, error = run("unpack", packed, "-o", other)
    assert status == 2 and "Expected: -o OUT" in error and not other.exists()


def test_file_report_of_bytes_has_no_name(folder):
    found = convert.describe((folder / "net.tflite").read_bytes())
    assert str(found).startswith("the file: ") and "real = " in str(found)


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_help_has_three_examples_and_all_defaults(command, capsys):
    with pytest.raises(SystemExit) as ended:
        commands.main([command, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and said.count(f"\n  tfstruct {command}") == 3
    flat = " ".join(said.split())
    for action in commands.parser().command(command).arguments():
        if action.option_strings and action.default not in (None, False, [], "==SUPPRESS=="):
            assert f"default: {action.default}" in flat, action.option_strings


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_examples_can_be_parsed(command):
    import shlex

    one = commands.parser().command(command)
    for how, _ in commands.COMMANDS[command].examples:
        words = shlex.split(how.split(" >")[0])
        if "--config" not in words:
            one.parse_args(words)


def test_completion(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert commands.main(["completion", "bash"]) == 2
    assert "pip install 'tfstruct[completion]'" in capsys.readouterr().err
    shells = types.SimpleNamespace(complete=lambda parser, shell: f"{shell}: {parser.prog}")
    monkeypatch.setitem(sys.modules, "shtab", shells)
    assert commands.main(["completion", "zsh"]) == 0 and capsys.readouterr().out == "zsh: tfstruct\n"


def test_completion_by_shtab(capsys):
    pytest.importorskip("shtab", reason="needs shtab")
    assert commands.main(["completion", "bash"]) == 0
    assert "--calibration" in capsys.readouterr().out


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "tfstruct", "convrt"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tfstruct: There is no command 'convrt'. Did you mean convert?\n"


def test_quiet_has_a_letter():
    for name, command in commands.COMMANDS.items():
        actions = commands.parser().command(name)._option_string_actions
        assert actions.get("-q") is actions.get("--quiet"), (name, command)
