"""ARCHITECTURE.md is short and names every room; the docstring of a room names its files, and no others."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "tfstruct"
# Rooms of one kind of file each, which say so instead of naming them.
OF_ONE_KIND = {"optimizers", "schedules", "regularizers", "layers", "initializers", "demo", "cli"}
ROOMS = sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists() and not p.name.startswith("_"))
# A folder of files of one kind within a room stands for them.
FOLDERS = ("rules/", "devices/", "steps/", "opening/")


def named_in(text: str) -> set[str]:
    return set(re.findall(r"`([\w/]+(?:\.py|/))`", text))


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in OF_ONE_KIND])
def test_a_room_names_its_files(room):
    place = PACKAGE / room
    named = named_in(ast.get_docstring(ast.parse((place / "__init__.py").read_text())))
    files = {str(p.relative_to(place)) for p in place.rglob("*.py") if p.name != "__init__.py"}
    known = {name for name in files if name in named or any(name.startswith(one) for one in named if one[-1] == "/")}
    assert not files - known, f"tfstruct/{room}/__init__.py does not say what these are: {sorted(files - known)}"
    gone = {name for name in named if not (place / name).exists() and name not in files}
    gone = {name for name in gone if not any(file.endswith(f"/{name}") for file in files)}
    assert not gone, f"tfstruct/{room}/__init__.py names files that are not there: {sorted(gone)}"


def test_the_overview_fits_three_screens_and_names_every_room():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    lines = text.splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120
    alone = {p.name for p in PACKAGE.glob("*.py")} - {"__init__.py"}
    missing = [name for name in (*ROOMS, *alone) if f"`{name}`" not in text and f"`{name}/`" not in text]
    assert not missing, f"ARCHITECTURE.md does not name {missing}"
