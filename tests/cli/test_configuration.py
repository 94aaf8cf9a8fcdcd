"""`--config` and `--save-config`: options in a file."""

import argparse

import pytest

from tfstruct.cli import commands, configuration, spelled


@pytest.fixture
def options(monkeypatch, tmp_path):
    """What a command would be run with."""
    monkeypatch.chdir(tmp_path)
    seen = []
    for name, command in list(commands.COMMANDS.items()):
        run = lambda given: seen.append(given) or 0  # noqa: E731
        monkeypatch.setitem(commands.COMMANDS, name, commands.Command(command.what, command.add_arguments, run, ()))

    def of(*arguments, file=None):
        if file is not None:
            (tmp_path / "job.toml").write_text(file)
        assert commands.main([*arguments]) == 0
        return seen.pop()

    return of


FILE = """
[quantize]
model = "net.keras"
output = "net.tflite"
calibration = "data.npz"
resize = [96, 96]
scale = "1/255"
samples = 100
float-io = true
keep_float = ["head", "stem*"]
precision = "INT8"

[quantize.input-type]
image = "uint8"
mask = "int8"

[compress.budget]
macs = "50%"
tflite_bytes = 56000
"""


def test_values_are_read_as_on_the_command_line(options):
    got = options("quantize", "--config", "job.toml", file=FILE)
    assert (got.model, got.output, got.resize, got.samples) == ("net.keras", "net.tflite", "96,96", 100)
    assert got.scale == pytest.approx(1 / 255) and got.precision == "int8" and got.float_io is True
    assert got.keep_float == ["head", "stem*"] and got.input_type == ["image=uint8", "mask=int8"]
    assert options("compress", "m.keras", "--config=job.toml").budget == "macs=50%,tflite_bytes=56000"


def test_the_command_line_goes_first(options):
    got = options(
        "quantize", "other.keras", "--config", "job.toml", "--keep-float", "tail", "--samples", "7", file=FILE
    )
    assert (got.model, got.keep_float, got.samples, got.calibration) == ("other.keras", ["tail"], 7, "data.npz")


def test_a_file_without_tables_is_for_any_command(options):
    got = options("explain", "--config", "job.toml", file='model = "net.keras"\nplot = "x.svg"\n')
    assert (got.model, got.plot) == ("net.keras", "x.svg")


def test_what_is_saved_is_read_again(options, tmp_path):
    first = options("quantize", "--config", "job.toml", "--layer", "a=int4", "--save-config", "again.toml", file=FILE)
    again = options("quantize", "--config", "again.toml")
    kept = {
        name: value for name, value in vars(first).items() if name not in ("config", "save_config", "given", "parser")
    }
    assert {name: getattr(again, name) for name in kept} == kept
    assert 'layer = ["a=int4"]' in (tmp_path / "again.toml").read_text()


@pytest.mark.parametrize(
    "file, says",
    [
        ("[quantize]\nmodle = 'x'", "Did you mean model?"),
        ("[quantize]\nzzz = 'x'", "It knows"),
        ("[quantize]\nfloat-io = 'yes'", "float-io in job.toml must be true or false"),
        ("[quantize]\nsamples = 'many'", "samples in job.toml"),
        ("[quantize]\nprecision = 'int7'", "must be one of float32"),
        ("[quantize]\ncalibration = 2020-01-01", "calibration in job.toml cannot be"),
        ("[prune]\nmodel = 'x'", "no options for 'quantize'"),
        ("no toml", "is no TOML file"),
    ],
)
def test_a_bad_file_is_one_line(file, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text(file)
    assert commands.main(["quantize", "--config", "job.toml"]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1
    assert commands.main(["quantize", "--config", "none.toml"]) == 2
    assert "there is no file none.toml" in capsys.readouterr().err
    assert commands.main(["quantize", "x.keras", "--save-config", "job.txt"]) == 2
    assert "ends in .toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    "read, text, value",
    [
        (spelled.number, "1/255", 1 / 255), (spelled.number, "-2.5", -2.5), (spelled.share, "83%", 0.83),
        (spelled.share, "0.5", 0.5), (spelled.count, "1e3", 1000), (spelled.precision, "INT8", "int8"),
        (spelled.precision, "fp16", "float16"), (spelled.precision, "int16", "int16x8"),
        (spelled.precision, "int7", "int7"),
    ],
)  # fmt: skip
def test_natural_spellings(read, text, value):
    assert read(text) == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize("read, text", [(spelled.number, "x/2"), (spelled.share, "150%"), (spelled.count, "1.5")])
def test_spellings_that_mean_nothing(read, text):
    with pytest.raises(argparse.ArgumentTypeError, match="Received"):
        read(text)


def test_every_option_can_stand_in_a_file():
    """No command has an option whose name in a file is another's."""
    for name in commands.COMMANDS:
        one = commands.parser().command(name)
        names = [n for a in one.arguments() for n in {m.replace("_", "-") for m in configuration._names(a.dest, a)}]
        assert len(names) == len(set(names)), name
