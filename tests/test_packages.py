"""What the source distribution and the wheel hold, and what they say of themselves."""

import configparser
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser

import pytest

import tfstruct

ROOT = pathlib.Path(__file__).parents[1]
# What a repository needs and a package does not.
ONLY_IN_GIT = (".ci/", ".github/", ".gitignore")


def _tracked() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("needs the list of files that git has")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """(sdist, wheel), built without network from a copy of what git has."""
    pytest.importorskip("setuptools")
    pytest.importorskip("wheel")
    place = tmp_path_factory.mktemp("packages")
    for name in _tracked():
        (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place / "tree" / name)
    code = f"from setuptools import build_meta as b; b.build_sdist({str(place)!r}); b.build_wheel({str(place)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=place / "tree", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(place.glob("*.tar.gz")), next(place.glob("*.whl"))


def test_the_sdist_has_all_files_of_git(packages):
    with tarfile.open(packages[0]) as archive:
        held = {name.partition("/")[2] for name in (member.name for member in archive if member.isfile())}
    expected = {name for name in _tracked() if not name.startswith(ONLY_IN_GIT)}
    assert expected <= held, sorted(expected - held)
    assert {name for name in held - expected if not name.startswith("tfstruct.egg-info/")} == {"PKG-INFO"}
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "tests/conftest.py", "examples/convert_int8.py"} <= held


def test_the_wheel_has_the_package_and_nothing_else(packages):
    with zipfile.ZipFile(packages[1]) as archive:
        held = set(archive.namelist())
        (metadata,) = (name for name in held if name.endswith(".dist-info/METADATA"))
        said = HeaderParser().parsestr(archive.read(metadata).decode())
        (points,) = (name for name in held if name.endswith("entry_points.txt"))
        assert "tfstruct = tfstruct.cli.commands:run" in archive.read(points).decode()
    assert {name for name in held if ".dist-info/" not in name} == {n for n in _tracked() if n.startswith("tfstruct/")}
    assert any(name.endswith("LICENSE") for name in held)
    assert said["Version"] == tfstruct.__version__ and said["Author"] and said["Requires-Python"] == ">=3.11"
    assert {line.split(",")[0] for line in said.get_all("Project-URL")} >= {"Documentation", "Source", "Issues"}
    assert {"docs", "micro", "plot", "test"} <= set(said.get_all("Provides-Extra"))


def test_versions_are_said_alike():
    assert f"\nversion: {tfstruct.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == tfstruct.__version__
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    pythons = re.findall(r":: 3\.(\d+)$", setup["metadata"]["classifiers"], re.MULTILINE)
    assert setup["options"]["python_requires"] == f">=3.{min(map(int, pythons))}"


@pytest.mark.parametrize("name", [".pre-commit-config.yaml", "CITATION.cff", *sorted(
    str(file.relative_to(ROOT)) for file in (ROOT / ".github").rglob("*.yml")
)])  # fmt: skip
def test_files_that_services_read_are_yaml(name):
    yaml = pytest.importorskip("yaml")
    said = yaml.safe_load((ROOT / name).read_text())
    assert isinstance(said, dict)
    for hook in (hook for repo in said.get("repos", ()) for hook in repo["hooks"]):
        for word in hook["entry"].split():
            assert not word.startswith("tests/") or (ROOT / word).exists(), word
    if "body" in said:  # a form: each question has an id of its own
        ids = [part["id"] for part in said["body"] if part["type"] != "markdown"]
        assert said["name"] and said["description"] and len(set(ids)) == len(ids)
