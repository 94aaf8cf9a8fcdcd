"""Killed with SIGKILL at seeded points, and called again: the same to the last bit, no half file, no leftover."""

import pytest
from jobs import FITS
from kills import POINTS, ended, killed_and_gone_on

pytestmark = pytest.mark.slow
_GROWS = "teacher.rows"  # row by row; teacher.rows.json says when it is whole


@pytest.mark.parametrize("compressors", FITS)
def test_fit_with_every_compressor(forks, tmp_path, compressors):
    killed_and_gone_on(forks, "fit", tmp_path, POINTS, seed=[*FITS].index(compressors), compressors=compressors)


def test_conversion(forks, tmp_path):
    killed_and_gone_on(forks, "convert", tmp_path, POINTS, check=half_files(forks, tmp_path / "whole" / "out"))


def test_saving(forks, tmp_path):
    ended(forks, "prepare", tmp_path)
    made = str(tmp_path / "made.pickle")
    killed_and_gone_on(forks, "save", tmp_path, POINTS, check=half_files(forks, tmp_path / "whole" / "out"), made=made)


@pytest.mark.parametrize("strategy", ["auto", ["optimize", "prune_channels", "quantize"]], ids=["auto", "steps"])
def test_compress(forks, tmp_path, model, strategy):
    killed_and_gone_on(forks, "compress", tmp_path, POINTS, model=model, strategy=strategy)


def test_search(forks, tmp_path, model):
    killed_and_gone_on(forks, "search", tmp_path, POINTS, model=model)


def test_search_with_two_workers(forks, tmp_path, model):
    pytest.importorskip("ray", reason="workers need Ray")
    killed_and_gone_on(forks, "search", tmp_path, POINTS, model=model, workers=2)


def half_files(forks, whole):
    """Checks after a kill: what has the name of a result is a whole one."""
    from jobs import in_folder

    def check(folder):
        wanted, found = in_folder(whole), in_folder(folder / "out")
        for name, content in found.items():
            if name in wanted and name != _GROWS:
                assert content == wanted[name], f"{name} is half"
                assert (folder / "out" / name).stat().st_size > 0, f"{name} is empty"

    return check
