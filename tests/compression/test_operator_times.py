"""Times of operators: kept, shared, read as data of unknown origin; interpolated, against a timer with a formula."""

import json
import math

import numpy as np
import pytest

from tfstruct.compression.alternatives.operator_times import OperatorTimes, TableTimes, default_folder, time_file
from tfstruct.convert import flatbuffer
from tfstruct.convert.kernel_operator import KernelOperator, kernel_operator
from tfstruct.convert.latency import LatencyTable, OperatorLatency
from tfstruct.errors import DataError

CONV = KernelOperator(
    "CONV_2D", (1, 6, 6, 8), (16, 3, 3, 8), (1, 6, 6, 16), (("strideH", 1), ("strideW", 1)), scales=16
)
DEPTHWISE = KernelOperator(
    "DEPTHWISE_CONV_2D", (1, 6, 6, 8), (1, 3, 3, 8), (1, 6, 6, 8),
    (("depthMultiplier", 1), ("strideH", 1), ("strideW", 1)), scales=8,
)  # fmt: skip


class Formula:
    """5 + 0.1 for a channel read + 0.2 for one made + 0.03 for each pair, by what the file says; counts its calls."""

    calls = 0

    def __call__(self, content):
        self.calls += 1
        model = flatbuffer.read(content)
        made = kernel_operator(model, flatbuffer.operators(model)[0])
        return self.at(made.inputs, made.outputs)

    @staticmethod
    def at(inputs, outputs):
        return 5 + 0.1 * inputs + 0.2 * outputs + 0.03 * inputs * outputs


def test_between_widths_the_formula_is_met_and_few_are_measured(tmp_path):
    timer = Formula()
    times = OperatorTimes(tmp_path, timer, "a machine")
    inputs, outputs = [8, 7, 6, 5, 4, 2, 1], [16, 14, 12, 8, 5, 3]
    found = times.grid(CONV, inputs, outputs)
    want = [[Formula.at(i, o) for o in outputs] for i in inputs]
    np.testing.assert_allclose(found, want)
    assert timer.calls == times.measured == 16
    assert times.grid(CONV, [8], [16, 16]).tolist() == [[Formula.at(8, 16)] * 2]


def test_a_formula_that_bends_is_exact_where_it_is_measured(tmp_path):
    def steps(content):
        model = flatbuffer.read(content)
        return float(8 * math.ceil(kernel_operator(model, flatbuffer.operators(model)[0]).outputs / 8))

    found = OperatorTimes(tmp_path, steps, "a machine").grid(CONV, [8], [8, 16, 24, 32, 40, 48, 56, 64])
    np.testing.assert_allclose(found, [[8, 16, 24, 32, 40, 48, 56, 64]])


def test_depthwise_widths_are_one(tmp_path):
    found = OperatorTimes(tmp_path, Formula(), "a machine").grid(DEPTHWISE, [8, 4], [8])
    np.testing.assert_allclose(found[:, 0], [Formula.at(8, 8), Formula.at(4, 4)])


def test_what_is_kept_is_not_measured_again_and_belongs_to_one_machine(tmp_path):
    first = OperatorTimes(tmp_path, Formula(), "a machine")
    want = first.of(CONV)
    first.save()
    silent = OperatorTimes(tmp_path, None, "a machine")
    assert silent.of(CONV) == want and silent.measured == 0
    other = OperatorTimes(tmp_path, lambda content: 1.0, "another machine")
    assert other.of(CONV) == 1.0 and other.path != first.path


def test_a_clock_that_did_not_move_spoils_nothing(tmp_path):
    first = OperatorTimes(tmp_path, lambda content: 0.0, "a machine")
    assert first.of(CONV) > 0
    first.save()
    assert OperatorTimes(tmp_path, None, "a machine").of(CONV) > 0


def test_two_at_once_keep_both(tmp_path):
    one, two = (OperatorTimes(tmp_path, Formula(), "a machine") for _ in range(2))
    one.of(CONV)
    two.of(DEPTHWISE)
    one.save()
    two.save()
    again = OperatorTimes(tmp_path, None, "a machine")
    assert again.of(CONV) and again.of(DEPTHWISE)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\x00", b"[]", b"{", b'{"schema": "x"}', b"[" * 100_000,
        b'{"schema": "tfstruct-operator-times-1", "place": "other", "times": {}}',
        b'{"schema": "tfstruct-operator-times-1", "place": "a machine", "times": {"k": -1}}',
        b'{"schema": "tfstruct-operator-times-1", "place": "a machine", "times": {"k": NaN}}',
        b'{"schema": "tfstruct-operator-times-1", "place": "a machine", "times": {"k": "x"}}',
        b'{"schema": "tfstruct-operator-times-1", "place": "a machine", "times": [1]}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_table_is_made_anew(tmp_path, content):
    path = OperatorTimes(tmp_path, Formula(), "a machine").path
    path.write_bytes(content)
    times = OperatorTimes(tmp_path, Formula(), "a machine")
    assert times.of(CONV) == Formula.at(8, 16) and times.measured == 1
    times.save()
    assert list(json.loads(path.read_text())["times"].values()) == [Formula.at(8, 16)]


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(tmp_path):
    (tmp_path / "file").write_text("")
    times = OperatorTimes(tmp_path / "file", Formula(), "a machine")
    assert times.of(CONV) == Formula.at(8, 16)
    times.save()


def test_where_times_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "tfstruct" / "operator-times"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert default_folder() == tmp_path / "home" / ".cache" / "tfstruct" / "operator-times"


def test_this_machine_takes_some_time_for_each(tmp_path):
    times = OperatorTimes(tmp_path)
    for operator in (CONV, DEPTHWISE):
        assert 0 < times.of(operator) < 100_000
    assert 0 < times.overhead < 100_000 and time_file(CONV.file()) > 0
    assert "ai-edge-litert" in times.place


def test_a_devices_table_says_what_its_estimate_says(tmp_path):
    row = OperatorLatency("CONV_2D", CONV.shapes, "int8", 50.0, "a board", (), CONV.macs)
    times = TableTimes(LatencyTable((row,)))
    half = CONV.resized(outputs=8)
    assert times.of(CONV) == 50 and times.of(half) == 25 and times.place == "a board"
    np.testing.assert_allclose(times.grid(CONV, [8, 4], [16, 8]), [[50, 25], [25, 12.5]])
    assert times.table.estimate(half.file()).microseconds == 25
    assert times.of_other(b"", "ADD", "int8", ((1, 4), (1, 4))) is None
    assert times.knows(CONV) and times.lacks == ()
    assert not times.knows(DEPTHWISE) and not times.knows(DEPTHWISE) and times.lacks == ("DEPTHWISE_CONV_2D",)
    with pytest.raises(DataError, match="lacks DEPTHWISE_CONV_2D"):
        times.of(DEPTHWISE)
