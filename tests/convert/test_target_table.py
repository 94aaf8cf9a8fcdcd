"""One file against all devices at once."""

import json

import pytest
from rich.console import Console

from tfstruct import Recipe, check_target, demo
from tfstruct.convert import TARGETS, Board, Converter, TargetTable, boards
from tfstruct.convert.devices import ethos_u, litert_npu, micro
from tfstruct.errors import ConversionError, RecipeError


@pytest.fixture(scope="module")
def digits(digits_model, process):
    (x, _), _ = demo.digits()
    with Converter(digits_model, process=process) as converter:
        return converter.draft(Recipe(precision="int8", calibration=x))[0]


def test_all_devices_are_asked_in_one_call(digits):
    table = check_target(digits, "all")
    assert isinstance(table, TargetTable)
    assert [one.target for one in table.reports] == [*TARGETS, *(board.name for board in boards())]
    alone = check_target(digits, "edgetpu")
    assert table["edgetpu"] == alone and table["edgetpu"].fits
    assert set(table.fitting) | set(table.unfit) | set(table.unknown) == {one.target for one in table.reports}
    assert {"mobile", "gpu", "edgetpu"} <= set(table.fitting) and "google-tensor" in table.unknown
    assert table.fits is None and "not known: google-tensor" in table.problem()


def test_operators_stand_against_devices_in_every_form(digits):
    table = check_target(digits, "All")
    sheet = table.sheet()
    assert sheet.header == ["operator", "count", *TARGETS]
    assert [row[0] for row in sheet.rows] == ["CONV_2D", "MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    row = dict(zip(sheet.header, sheet.rows[0], strict=True))
    assert row["count"] == 3 and row["mobile"] == row["gpu"] == "yes" and row["google-tensor"] == "?"
    said = str(table)
    assert "cortex-m4:nano33ble" in said and "flash" in said and "?: that is not known" in said
    assert "judged by the rules of TensorFlow Lite's GPU delegate: gpu" in said
    screen = Console(width=150, color_system=None)
    with screen.capture() as captured:
        screen.print(table.table())
    assert "google-tensor" in captured.get() and "FULLY_CONNECTED" in captured.get()
    assert "<td>FULLY_CONNECTED" in table._repr_html_()
    data = json.loads(table.to_json())
    assert data["operators"]["CONV_2D"]["google-tensor"] == "unknown" and data["operators"]["MEAN"]["gpu"] == "yes"
    assert data["targets"]["micro"]["fits"] and data["fits"] is None and "gpu" in data["fitting"]
    assert table.to_csv().startswith("operator,count,mobile")


def test_a_list_of_devices_and_boards(digits):
    own = Board("cortex-m4:mine", "mine", 1 << 20, 1 << 18)
    table = check_target(digits, ["mobile", own])
    assert table.fitting == ("mobile", "cortex-m4:mine") and table.fits and table.problem() == ""
    only = check_target(digits, [own, "cortex-m7"])
    assert only.sheet().header == ["operator", "count", "cortex-m4:mine", "cortex-m7:stm32f746g-disco"]
    with pytest.raises(RecipeError, match="must be one of"):
        check_target(digits, ["mobile", "moon"])


def test_a_judge_that_fails_is_one_unknown_column(digits, monkeypatch):
    def fails(*args):
        raise ConversionError("ethos-u-vela failed (exit status 3): no memory.")

    monkeypatch.setattr(ethos_u, "version", lambda: "5.2.0")
    monkeypatch.setattr(ethos_u, "compile_file", fails)
    table = check_target(digits, ["mobile", "ethos-u"])
    assert table.unknown == ("ethos-u",) and table.fitting == ("mobile",)
    assert "no memory" in str(table)
    with pytest.raises(ConversionError, match="no memory"):
        check_target(digits, "ethos-u")


@pytest.mark.skipif(micro.micro.version() is None, reason="needs tflite-micro (tfstruct[micro])")
def test_the_runtime_is_asked_once_for_all_boards(digits, monkeypatch):
    asked = []
    probe = micro.micro.probe
    monkeypatch.setattr(micro.micro, "probe", lambda content: asked.append(1) or probe(content))
    micro._answers.clear()
    check_target(digits, "all")
    assert len(asked) == 1
    assert litert_npu  # the NPUs of phones are in the table too
