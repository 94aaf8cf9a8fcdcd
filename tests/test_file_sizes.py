"""One responsibility a file: none is longer than a reader takes in."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "tfstruct"
MOST = 400


def lines(name: str) -> int:
    return len((ROOT / name).read_text().splitlines())


@pytest.mark.parametrize("room", sorted(path.name for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()))
def test_no_file_is_longer_than_400_lines(room):
    files = (ROOT / room).rglob("*.py") if (ROOT / room).is_dir() else [ROOT / room]
    names = {str(file.relative_to(ROOT)) for file in files}
    assert {name: lines(name) for name in names if lines(name) > MOST} == {}
