"""Time by operator, measured here or read from a table."""

import dataclasses
import json
import subprocess
import sys

import pytest
import zoo

from tfstruct import Recipe
from tfstruct.convert import Converter, flatbuffer
from tfstruct.convert.latency import WHOLE, LatencyTable, OperatorLatency, macs, profile_operators
from tfstruct.convert.runtime import processor
from tfstruct.errors import DataError


@pytest.fixture(scope="module")
def made(process):
    model = zoo.build("conv_bn")
    recipe = Recipe(precision="int8", calibration=zoo.sample_inputs(model, 4), check_range=False)
    with Converter(model, process=process) as converter:
        return converter.draft(recipe)


@pytest.fixture(scope="module")
def table(made):
    return LatencyTable(profile_operators(*made, seconds=0.002))


def row(macs, microseconds, operator="CONV_2D", dtype="int8", shapes=(), place="a board"):
    return OperatorLatency(operator, shapes, dtype, microseconds, place, (), macs)


def test_every_operator_is_timed_with_its_layer_and_processor(made, table):
    found = flatbuffer.operators(*made)
    assert [r.operator for r in table.rows] == [op.name for op in found]
    assert [r.layers for r in table.rows] == [op.layers for op in found]
    by_name = profile_operators(made[0], seconds=0.0)  # a file alone tells them by the names of its tensors
    assert [r.layers for r in by_name] == [flatbuffer.layers_by_name(op) for op in found]
    assert all(0 < r.microseconds < 10_000 for r in table.rows)
    assert table.processors == (processor(),)
    first = table.rows[0]
    assert first.shapes == ((1, 12, 12, 3), (8, 3, 3, 3), (8,), (1, 12, 12, 8))
    assert first.macs == 12 * 12 * 8 * 3 * 3 * 3


def test_loops_are_left_out(process):
    with Converter(zoo.build("lstm"), process=process) as converter:
        content = converter.draft(Recipe())[0]
    assert "WHILE" not in {r.operator for r in profile_operators(content, seconds=0.0)}


def test_json_round_trip_and_estimate_of_the_same_file(made, table):
    again = LatencyTable.from_json(table.to_json())
    assert again == table
    estimate = again.estimate(*made)
    assert estimate.microseconds == pytest.approx(sum(r.microseconds for r in table.rows))
    assert {one.how for one in estimate.operators} == {"measured"} and estimate.missing == ()
    assert processor() in str(estimate)


def test_the_nearest_by_macs_is_scaled_and_what_is_missing_is_listed(made):
    """The first convolution has 31,104 MACs: 30,000 in 100 µs are nearer than 300,000 in 500 µs."""
    estimate = LatencyTable((row(30_000, 100.0), row(300_000, 500.0), row(10, 1.0, "MEAN", "float32"))).estimate(*made)
    first = estimate.operators[0]
    assert first.microseconds == pytest.approx(100.0 * 31_104 / 30_000)
    assert first.how == "scaled from 30,000 to 31,104 MACs"
    assert {one.operator for one in estimate.missing} == {"MAX_POOL_2D", "MEAN", "FULLY_CONNECTED", "SOFTMAX"}
    assert "4 operators that the table lacks: MAX_POOL_2D, MEAN, FULLY_CONNECTED, SOFTMAX" in str(estimate)
    assert estimate.microseconds == pytest.approx(sum(o.microseconds for o in estimate.operators if o.microseconds))
    assert "a board" in str(estimate)


def test_several_measurements_of_one_operator_count_by_their_median(made, table):
    first = table.rows[0]
    rows = tuple(dataclasses.replace(first, microseconds=t) for t in (5.0, 90.0, 7.0))
    assert LatencyTable(rows).estimate(made[0]).operators[0].microseconds == 7.0


@pytest.mark.parametrize(
    "name, shapes, want",
    [
        ("CONV_2D", ((1, 8, 8, 4), (16, 3, 3, 4), (16,), (1, 8, 8, 16)), 8 * 8 * 16 * 36),
        ("CONV_3D", ((1, 4, 4, 4, 2), (3, 3, 3, 2, 5), (1, 4, 4, 4, 5)), 4 * 4 * 4 * 5 * 54),
        ("DEPTHWISE_CONV_2D", ((1, 8, 8, 4), (1, 3, 3, 8), (8,), (1, 8, 8, 8)), 8 * 8 * 8 * 9),
        ("FULLY_CONNECTED", ((1, 32), (10, 32), (10,), (1, 10)), 320),
        ("TRANSPOSE_CONV", ((4,), (6, 3, 3, 4), (1, 5, 5, 4), (1, 10, 10, 6)), 5 * 5 * 4 * 6 * 9),
        ("BATCH_MATMUL", ((2, 6, 4), (2, 4, 6), (2, 6, 6)), 2 * 6 * 6 * 4),
        ("ADD", ((1, 8, 8, 4), (4,), (1, 8, 8, 4)), 256),
        ("MEAN", ((1, 8, 8, 4), (2,), (1, 4)), 256),
    ],
)
def test_macs_by_hand(name, shapes, want):
    assert macs(name, shapes) == want


def test_a_users_table_needs_little():
    text = json.dumps(
        {
            "processor": "Cortex-M7, 480 MHz",
            "rows": [
                {"operator": "FULLY_CONNECTED", "shapes": [[1, 32], [10, 32], [10], [1, 10]], "microseconds": 21},
                {"operator": "ADD", "shapes": [[1, 4], [1, 4], [1, 4]], "microseconds": 3, "processor": "M4"},
            ],
        }
    )
    one, two = LatencyTable.from_json(text).rows
    assert (one.processor, one.macs, two.processor) == ("Cortex-M7, 480 MHz", 320, "M4")


def test_what_litert_benchmark_writes_is_read(made, tmp_path):
    """Its own result: a whole model, beside the sum of the operators; it does not name the processor."""
    data = {"model": "/a/b/net.tflite", "latency": {"median_ms": 1.25, "avg_ms": 1.3}}
    table = LatencyTable.from_json(json.dumps(data), processor="Pixel 9")
    assert table.rows == (OperatorLatency(WHOLE, (), "", 1250.0, "Pixel 9", ("net.tflite",)),)
    estimate = table.estimate(*made)
    assert len(estimate.missing) == len(estimate.operators) and estimate.microseconds == 0
    assert "1,250.0 µs on Pixel 9" in str(estimate)
    assert "does not name" in LatencyTable.from_json(json.dumps(data)).rows[0].processor
    with pytest.raises(DataError, match=r"rounds to 0\.01 ms"):
        LatencyTable.from_json(json.dumps({"latency": {"median_ms": 0.0}}))


def test_the_tools_own_result(made, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(made[0])
    run = "import sys; from ai_edge_litert.tools.benchmark_litert_model import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "--model", str(path), "--num_runs", "5", "--warmup_runs", "1"]
    done = subprocess.run([*command, "--result_json", str(tmp_path / "r.json")], capture_output=True, text=True)
    assert (tmp_path / "r.json").exists(), done.stderr[-500:]
    data = json.loads((tmp_path / "r.json").read_text())
    data["latency"]["median_ms"] = max(data["latency"]["median_ms"], 0.01)
    assert LatencyTable.from_json(json.dumps(data)).rows[0].layers == ("net.tflite",)


@pytest.mark.parametrize(
    "text, match",
    [
        ("{", "must be JSON"),
        ("[]", "must be a JSON object"),
        ('{"a": 1}', r"an object with \['a'\]"),
        ('{"rows": [3]}', "Row 0 of the latency table must be an object"),
        ('{"rows": [{"microseconds": 3}]}', "needs `operator`"),
        ('{"rows": [{"operator": "ADD"}]}', "needs `microseconds`"),
        ('{"rows": [{"operator": "ADD", "microseconds": -1}]}', "above 0"),
        ('{"rows": [{"operator": "ADD", "microseconds": NaN}]}', "above 0"),
        ('{"rows": [{"operator": "ADD", "microseconds": 1}]}', "needs `processor`"),
        ('{"processor": "x", "rows": [{"operator": "ADD", "microseconds": 1, "shapes": [3]}]}', "needs `shapes`"),
    ],
)
def test_tables_that_are_none(text, match, tmp_path):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(DataError, match=match):
        LatencyTable.read(tmp_path / "t.json")
