"""Boards by name: their flash and RAM against a file's size and arena."""

import dataclasses

import pytest

from tfstruct import Recipe, check_target, demo
from tfstruct.compression import Settings
from tfstruct.convert import Board, Converter, add_board, add_boards, boards, micro
from tfstruct.convert.devices import boards as table
from tfstruct.convert.devices import device
from tfstruct.convert.devices.device import Memory
from tfstruct.errors import RecipeError

needs_runtime = pytest.mark.skipif(micro.version() is None, reason="needs tflite-micro (tfstruct[micro])")
KB = 1024


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    """What a test adds is gone after it."""
    monkeypatch.setattr(table, "_BOARDS", dict(table._BOARDS))


@pytest.fixture(scope="module")
def digits(digits_model, process):
    (x, _), _ = demo.digits()
    with Converter(digits_model, process=process) as converter:
        return converter.draft(Recipe(precision="int8", calibration=x))[0]


@needs_runtime
def test_a_file_is_held_against_flash_and_ram(digits):
    report = check_target(digits, "cortex-m4:nano33ble")
    flash, ram = report.memory
    done = micro.measure(digits)
    assert (flash.least, flash.most, flash.available) == (len(digits), len(digits), 1024 * KB)
    assert (ram.most, ram.available) == (done.arena_bytes, 256 * KB)
    assert done.head_bytes < ram.least < ram.most
    assert report.fits and flash.fits and ram.fits and report.problem() == ""
    assert f"the file takes {len(digits):,} of 1,048,576 bytes" in dict(report.facts)["flash"]
    assert dict(report.facts)["kernels"] == "CMSIS-NN with the DSP extension"
    assert report.to_dict()["memory"][0]["available"] == 1024 * KB


@needs_runtime
def test_what_is_too_small_is_said_with_its_figures(digits):
    small = Board("cortex-m4:small", "too small", flash_bytes=len(digits) - 1, ram_bytes=1 * KB)
    report = check_target(digits, small)
    assert [one.fits for one in report.memory] == [False, False] and report.fits is False
    assert all(row.fits for row in report.rows) and report.outside == ()
    assert report.problem().startswith(f"flash of cortex-m4:small does NOT fit: the file takes {len(digits):,} of ")
    assert "RAM of cortex-m4:small does NOT fit: the arena takes" in report.problem()
    assert check_target(digits, dataclasses.replace(small, flash_bytes=len(digits), ram_bytes=256 * KB)).fits


@needs_runtime
def test_between_the_least_and_the_most_that_an_arena_takes_nothing_is_guessed(digits):
    """64-bit pointers were measured, the board has 32 bits."""
    done = micro.measure(digits)
    between = Board("cortex-m4:between", "just so", len(digits), done.arena_bytes - 1)
    report = check_target(digits, between)
    assert report.fits is None and report.memory[1].fits is None
    assert "RAM of cortex-m4:between unknown whether it fits: the arena takes" in report.problem()
    outside = dataclasses.replace(between, psram_bytes=1024 * KB)
    slower = check_target(digits, outside).memory[1]
    assert slower.fits and "in PSRAM, if not in the" in str(slower)
    without = dataclasses.replace(between, ram_bytes=KB, psram_bytes=1024 * KB)
    report = check_target(digits, without)
    assert report.fits and report.memory[1].name == "PSRAM" and "slower" in report.memory[1].remark


def test_without_the_runtime_the_arena_is_not_known(digits, monkeypatch):
    monkeypatch.setattr(micro, "version", lambda: None)
    report = check_target(digits, "cortex-m7")
    assert report.fits is None and report.memory[0].fits and report.memory[1].fits is None
    assert "the arena is not known" in report.problem() and "tflite-micro is not installed" in report.problem()


@pytest.mark.parametrize(
    "said, name",
    [
        ("cortex-m4", "cortex-m4:nano33ble"),
        ("Cortex-M4", "cortex-m4:nano33ble"),
        ("CORTEX_M7", "cortex-m7:stm32f746g-disco"),
        ("Arduino Nano 33 BLE Sense", "cortex-m4:nano33ble"),
        ("rp2040", "cortex-m0+:pico"),
        ("Raspberry Pi Pico 2", "cortex-m33:pico2"),
        ("ESP32S3", "esp32-s3"),
        ("esp32-s3-devkitc-1", "esp32-s3:devkitc-1-n8r8"),
        ("Coral", "edgetpu"),
        ("Edge TPU", "edgetpu"),
        ("Snapdragon", "qualcomm"),
        ("GPU", "gpu"),
        ("TFLite Micro", "micro"),
        ("Ethos U55 256", "ethos-u55-256"),
        ("android", "mobile"),
    ],
)
def test_natural_spellings_mean_a_device(said, name):
    assert device(said).name == name
    assert Settings(target=said).target == said


def test_boards_do_not_share_names():
    said = [one for board in boards() for one in (board.name, *board.aliases)]
    plain = ["".join(c for c in name.lower() if c.isalnum() or c == "+") for name in said]
    assert len({(a, b) for a, b in zip(plain, said, strict=True)}) == len(said)
    for board in boards():
        assert {device(alias).name for alias in board.aliases} <= {board.name}
        assert board.source.startswith("https://") and board.flash_bytes > board.ram_bytes


@needs_runtime
def test_boards_of_a_file(digits, tmp_path):
    path = tmp_path / "boards.toml"
    path.write_text(
        '["cortex-m4:ours"]\nwhat = "our sensor"\nflash = "512 KB"\nram = 131072\naliases = ["the sensor"]\n'
        '["esp32-s3:ours"]\nflash = "4 MB"\nram = "320 KiB"\npsram = "2 MB"\n'
    )
    added = add_boards(path)
    assert [(b.flash_bytes, b.ram_bytes, b.psram_bytes) for b in added] == [
        (512 * KB, 128 * KB, 0), (4096 * KB, 320 * KB, 2048 * KB)
    ]  # fmt: skip
    report = check_target(digits, "The Sensor")
    assert report.target == "cortex-m4:ours" and report.what == "our sensor" and report.fits
    assert "in ESP-NN" in dict(check_target(digits, "esp32-s3:ours").facts)
    assert device("cortex-m4").name == "cortex-m4:nano33ble"  # the first of the table is meant still


@pytest.mark.parametrize(
    "text, says",
    [
        ("[[", "is no TOML file"),
        ("", "has no board"),
        ('["cortex-m4:a"]\nflash = "1 MB"\n', "must be a table with flash and ram"),
        ('["cortex-m4:a"]\nflash = "1 MB"\nram = "1 KB"\nrom = 1\n', "must be a table with flash and ram"),
        ('["cortex-m4:a"]\nflash = "many"\nram = "1 KB"\n', "or a text such as '512 KB'"),
        ('["cortex-m4:a"]\nflash = true\nram = "1 KB"\n', "or a text such as '512 KB'"),
        ('["cortex-m4:a"]\nflash = nan\nram = "1 KB"\n', "or a text such as '512 KB'"),
        ('["cortex-m4:a"]\nflash = -1\nram = "1 KB"\n', "or a text such as '512 KB'"),
        ('["cortex-m4:a"]\nflash = 0\nram = "1 KB"\n', "flash_bytes must be a number of bytes"),
        ('["cortex-m9:a"]\nflash = 1\nram = 1\n', "processor must be one of cortex-m0"),
        ('["mine"]\nflash = 1\nram = 1\n', "its processor and its own name"),
        ('mine = 3\n', "must be a table with flash and ram"),
        ('["cortex-m4:a"]\nflash = 1\nram = 1\naliases = "x"\n', "aliases must be a list"),
    ],
)  # fmt: skip
def test_a_file_of_boards_that_is_none_is_named(text, says, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=f"bad.toml.*{says}"):
        add_boards(path)
    assert "cortex-m4:a" not in [board.name for board in boards()]


def test_only_boards_are_added():
    with pytest.raises(RecipeError, match=r"Expected a Board\. Received: str"):
        add_board("cortex-m4:mine")
    with pytest.raises(RecipeError, match="in small letters"):
        Board("Cortex M4", "x", 1, 1)


def test_memory_that_is_not_known_is_unknown():
    assert Memory("RAM", "the arena", 10).fits is None
    assert Memory("RAM", "the arena", 10, 10, 10).fits is True
    assert Memory("RAM", "the arena", 10, 5, 11).fits is None
    assert Memory("RAM", "the arena", 10, 11, 12).fits is False
    assert str(Memory("RAM", "the arena", 10, 5, 11)).endswith("the arena takes 5 to 11 of 10 bytes (110.0%)")
