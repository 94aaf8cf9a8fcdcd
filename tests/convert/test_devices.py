"""A device is one file: all that asks for devices finds it there."""

import pytest

from tfstruct import demo
from tfstruct.compression import Settings
from tfstruct.convert import Converter, Recipe, check_target, devices
from tfstruct.errors import RecipeError

TOASTER = """
from tfstruct.convert.devices.device import Device, Verdict


def judge(content, found):
    return Verdict("the toaster's manual", [(op.name in OPERATORS, OPERATORS.get(op.name, "too hot")) for op in found])


OPERATORS = {"CONV_2D": "", "FULLY_CONNECTED": "", "AVERAGE_POOL_2D": ""}
DEVICE = Device(
    "toaster", "bread", judge, OPERATORS, {"SOFTMAX": [("nothing, take the scores", "FULLY_CONNECTED")]},
    four_bit_weights=True, variants={"toaster-xl": Device("toaster-xl", "more bread", judge)},
)
"""


@pytest.fixture
def toaster(tmp_path, monkeypatch):
    (tmp_path / "toaster.py").write_text(TOASTER)
    monkeypatch.setattr(devices, "__path__", [*devices.__path__, str(tmp_path)])


def test_devices_are_found_in_their_folder_those_first_that_run_most():
    found = devices.devices()
    assert {one.name for one in found} == {
        "mobile", "gpu", "qualcomm", "mediatek", "google-tensor", "intel-npu",
        "micro", "esp32-s3", "ethos-u", "edgetpu",
    }  # fmt: skip
    assert (
        found[0].name == "mobile"
        and all(one.closed for one in found[-2:])
        and not any(one.closed for one in found[:-2])
    )
    counts = [len(one.operators) for one in found[1:-2]]
    assert counts == sorted(counts, reverse=True)
    four = [one.name for one in found if one.four_bit_weights]
    assert four == ["mobile", "esp32-s3", "micro", "qualcomm", "mediatek"]
    assert devices.device("ethos-u55-256").what == "Arm Ethos-U NPU, ethos-u55-256"
    assert devices.device("ethos-u").what == "Arm Ethos-U NPU, ethos-u55-128"


def test_one_file_is_a_device(toaster, digits_model, process):
    (x, _), _ = demo.digits()
    with Converter(digits_model, process=process) as converter:
        content = converter.draft(Recipe(precision="int8", calibration=x[:8]))[0]
    report = check_target(content, "toaster")
    assert report.judge == "the toaster's manual" and report.what == "bread"
    assert [(row.operator, row.why, row.replacement) for row in report.outside] == [
        ("MEAN", "too hot", "AveragePooling2D"),  # of those that hold for all devices
        ("SOFTMAX", "too hot", "nothing, take the scores"),
    ]
    assert check_target(content, "toaster-xl").what == "more bread"
    assert Settings(target="toaster").target == "toaster"
    with pytest.raises(RecipeError, match=r"mobile, .*edgetpu, toaster, .*or one of the variants .*-xl"):
        check_target(content, "kettle")


@pytest.mark.parametrize(
    "name, meant",
    [
        ("cortex-m9", "micro"),
        ("ESP32-C3", "micro"),
        ("android-15", "mobile"),
        ("coral-usb", "edgetpu"),
        ("ethos-u99", "ethos-u"),
        ("cortex-m4:nano33", "cortex-m4:nano33ble"),
        ("quallcom", "qualcomm"),
        ("stm32f4", "micro"),
    ],
)
def test_the_error_names_the_device_that_is_meant(name, meant):
    with pytest.raises(RecipeError, match=f"Received: '{name}'. Meant is perhaps '{meant}': "):
        devices.device(name)


def test_a_device_that_is_not_there_is_refused_by_all_that_ask(digits_model):
    for ask in (devices.device, lambda name: check_target(b"", name), lambda name: Settings(target=name)):
        with pytest.raises(RecipeError, match=r"`target` must be one of mobile, .*-2048\. Received: 'toaster'"):
            ask("toaster")
