"""A full disk, a folder that goes away, little memory: one clear error, and what was there before stays as it was."""

import contextlib
import os
import subprocess

import numpy as np
import pytest
from commands import COMMANDS, contents
from kills import POINTS, ended, temporary

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path):
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk of its own can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk, free: int) -> None:
    """Leaves so many bytes on a disk."""
    number = os.open(disk / "full", os.O_CREAT | os.O_WRONLY)
    with contextlib.suppress(OSError):
        while True:
            os.write(number, bytes(4096))
    os.ftruncate(number, max(os.fstat(number).st_size - free, 0))
    os.close(number)


@pytest.mark.parametrize("where", ["out", "work", "temporary"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(forks, given, disk, tmp_path, name, where):
    if where == "work" and name != "compress":
        pytest.skip("it has no working folder")
    places = {"out": tmp_path / "out", "work": tmp_path / "work", "temporary": tmp_path / "temporary"}
    places[where] = disk / where
    for place in places.values():
        place.mkdir()
    arguments = [one.format(**places) for one in COMMANDS[name]]

    def call(folder=given):
        return ended(forks, "command", folder, arguments=arguments, temporary=str(places["temporary"])).outcome

    first = call()
    assert first["status"] in (0, 1), first
    whole, taken = contents(places["out"]), sum(p.stat().st_size for p in places[where].rglob("*") if p.is_file())
    rng = np.random.default_rng([*name.encode(), *where.encode()])
    most = {"out": taken, "work": taken, "temporary": 1 << 18}[where]
    for free in [0, *rng.integers(0, most, POINTS).tolist()]:
        if where == "work":
            subprocess.run(["rm", "-rf", *map(str, places["work"].iterdir())], check=True)
        fill(disk, free)
        before = contents(places["out"])
        found = call()
        (disk / "full").unlink()
        print(f"\n{name}, {where}, {free} bytes free: {found['status']} {found['said'].strip()[-300:]}")
        after = contents(places["out"])
        assert found["status"] in (first["status"], 2), found
        said = [line for line in found["said"].splitlines() if line.startswith("tfstruct")]
        assert len(said) == (found["status"] != 0) and found["said"].splitlines()[-1:] == said, (
            found
        )  # h5py adds its own
        assert found["status"] != 2 or "space" in said[0], found
        assert set(after) == set(before), set(after) ^ set(before)
        for file, content in after.items():
            assert (
                content == before[file] or file.endswith((".html", ".keras", ".tfpack", ".h")) or content == whole[file]
            )
    again = call()
    assert again["status"] == first["status"] and contents(places["out"]).keys() == whole.keys()
    assert {f: c for f, c in contents(places["out"]).items() if f.endswith(".tflite")} == {
        f: c for f, c in whole.items() if f.endswith(".tflite")
    }
    assert [one.name for one in places["temporary"].iterdir() if "tfstruct" in one.name] == []


@pytest.mark.parametrize("call, what", [("convert", "tfstruct-*"), ("compress", "tfstruct-*"), ("compress", "work")])
def test_a_folder_that_goes_away(forks, tmp_path, call, what):
    whole = ended(forks, "without", tmp_path / "whole", call=call, what=what, stage=None).outcome
    assert whole["error"] == "" and whole["result"]
    for i, stage in enumerate(whole["stages"]):
        found = ended(forks, "without", tmp_path / str(i), call=call, what=what, stage=stage).outcome
        print(f"\n{call} without {what} from {stage!r} on: {found['error'] or 'as before'}")
        if found["error"]:
            assert found["error"].startswith(("TfstructError", "FileNotFoundError")), found
            assert "No such file" in found["error"] or "does not exist" in found["error"], found
        else:
            assert found["result"] == whole["result"]
        assert found["again"] == whole["again"]
        assert temporary(forks) == set()


def test_a_child_with_little_memory(forks, tmp_path):
    for megabytes in (0, 8, 64, 4096):
        found = ended(forks, "memory", tmp_path / str(megabytes), megabytes=megabytes).outcome
        print(f"\n{megabytes} MB more for the child: {found['error'] or 'as before'}")
        assert found["before"] == found["after"] == found["again"]
        assert found["error"].startswith("ConversionError: TensorFlow's") or (megabytes and not found["error"]), found
        assert len(found["error"].splitlines()) <= 1


def test_files_of_a_limited_size(forks, given, tmp_path):
    """As full disks, without a disk of one's own."""
    out = tmp_path / "out"
    out.mkdir()
    arguments = [one.format(out=out, work=tmp_path / "work") for one in COMMANDS["convert"]]
    assert ended(forks, "command", given, arguments=arguments).outcome["status"] == 0
    whole = contents(out)
    for limit in (0, 500, 2000, 5000, 20_000):
        found = ended(forks, "command", given, arguments=arguments, limit=limit).outcome
        print(f"\nfiles of {limit} bytes: {found['status']} {found['said'].strip()}")
        said = [line for line in found["said"].splitlines() if line.startswith("tfstruct")]
        assert found["status"] in (0, 2) and len(said) == (found["status"] != 0), found
        assert contents(out).keys() == whole.keys()
        assert contents(out)["model.tflite"] == whole["model.tflite"]
