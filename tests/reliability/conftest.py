"""A process that forks for the jobs, and what it prepares. Jobs use the small networks and the compressors of
tests/callbacks."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "callbacks"))

from forking import Forks
from kills import ended


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """Forks a process for each job."""
    with Forks(tmp_path_factory.mktemp("forks")) as running:
        yield running


@pytest.fixture(scope="module")
def given(forks, tmp_path_factory):
    """A folder with the models and data that commands take."""
    folder = tmp_path_factory.mktemp("given")
    ended(forks, "files", folder)
    return folder


@pytest.fixture(scope="module")
def model(forks, tmp_path_factory):
    """The path of a trained model."""
    folder = tmp_path_factory.mktemp("trained")
    ended(forks, "trained", folder)
    return str(folder / "trained.keras")
