"""What a long call shows while it works: a bar, lines, or nothing, and never two at a time."""

import inspect
import io
import time

import keras
import numpy as np
import pytest

import tfstruct
from tfstruct import analyze, quantize, terminal
from tfstruct.errors import ArgumentError
from tfstruct.terminal import StageLines, display

CALLS = {
    "compress": (tfstruct.compress, ("train", "validation", "macs=50%")),
    "to_tflite": (tfstruct.to_tflite, ("int8",)),
    "calibrate": (quantize.calibrate, ("data",)),
    "adaround": (quantize.adaround, ("data",)),
    "blockwise": (quantize.blockwise, ("data",)),
    "correct_bias": (quantize.correct_bias, ("data",)),
    "mixed_precision": (quantize.mixed_precision, ("data", "tflite_bytes=50%")),
    "sensitivity to rounding": (quantize.sensitivity, ("data",)),
    "sensitivity to pruning": (analyze.sensitivity, ("data",)),
}


@pytest.fixture
def clock(monkeypatch):
    """A time that a test sets."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu", name="hidden")])


def test_a_line_a_stage_and_one_where_a_stage_is_long(clock):
    out = io.StringIO()
    lines = StageLines(out)
    for now, stage, done in [(0, "load", None), (2, "train", 0), (4, "train", 50), (8, "train", 90), (65, "train", 95),
                             (80, "train", 96), (98, "train", 97), (99, "test", None)]:  # fmt: skip
        clock[0] = now
        lines(stage, done, None if done is None else 100, "" if done is None else "; best 0.9")
    assert out.getvalue().splitlines() == [
        "[0:00] load", "[0:02] train 0/100; best 0.9", "[0:08] train 90/100; best 0.9", "[1:05] train 95/100; best 0.9",
        "[1:38] train 97/100; best 0.9", "[1:39] test",
    ]  # fmt: skip


def test_a_stage_that_says_nothing_is_written_too(monkeypatch):
    monkeypatch.setattr(terminal, "_SILENT_AT_FIRST", 0.0)
    out, waits = io.StringIO(), []
    with StageLines(out).beating() as lines:
        lines("wait")
        while out.getvalue().count("wait") < 2 and len(waits) < 1000:
            waits.append(time.sleep(0.01))
    assert out.getvalue().count("wait") >= 2


def test_what_is_quick_is_silent_in_a_log(clock, capsys):
    with display("auto") as show:
        show("quick", 1, 2)
        clock[0] = 4.9
        show("still quick", 1, 2)
        assert capsys.readouterr().err == ""
        clock[0] = 5.0
        show("long", 1, 2)
    assert capsys.readouterr().err == "[0:05] long 1/2\n"


@pytest.mark.parametrize("verbose, listens, said", [(0, False, ""), ("auto", True, ""), (2, True, "[0:00] stage\n")])
def test_what_verbose_says(clock, capsys, verbose, listens, said):
    with display(verbose, listens=listens) as show:
        show("stage")
    assert capsys.readouterr().err == said


def test_a_bar_where_it_is_asked_for(capsys):
    with display(1) as show:
        show("stage", 1, 2, "; best 0.9")
    assert "[0:0" not in capsys.readouterr().err  # rich draws it only where it can


def test_a_call_within_a_call_shows_nothing(clock, capsys):
    with display(2) as outer:
        outer("outer")
        with display(2) as inner:
            inner("inner")
    with display(2) as again:
        again("again")
    assert capsys.readouterr().err == "[0:00] outer\n[0:00] again\n"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("verbose", [3, "loud", None])
def test_every_long_call_has_it(name, verbose, model):
    call, given = CALLS[name]
    names = inspect.signature(call).parameters
    assert names["verbose"].default == "auto" and "progress" in names
    with pytest.raises(ArgumentError, match=r"`verbose` must be one of auto, 0, 1, 2\. Received"):
        call(model, *given, verbose=verbose)


def test_lines_of_a_conversion_and_what_a_listener_is_told(model, process, capsys):
    told = []
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    quantize.calibrate(model, x, progress=lambda *state: told.append(state), verbose=2)
    assert "] calibrate" in capsys.readouterr().err and told == [("calibrate", 32, 32)]
    quantize.sensitivity(model, x, ("int8",), progress=None, verbose=2)
    said = capsys.readouterr().err
    assert "] sensitivity" in said and "calibrate" not in said
    quantize.calibrate(model, x, verbose=0)
    assert capsys.readouterr().err == ""
