"""Every code block of the documentation runs: Python in order, commands of `console` blocks; others are parsed.

All pages go on from the first block of the page Start. What trains, trains for one epoch here.
"""

import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import keras
import pytest

from tfstruct import demo
from tfstruct.cli import commands, configuration

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {str(file.relative_to(DOCS)): file for file in sorted(DOCS.rglob("*.md")) if "api" not in file.parts}
PAGES["README.md"] = ROOT / "README.md"
OTHER = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "tfstruct/demo/DIGITS.md")
# These take a second or two; the others train or convert.
QUICK = ("concepts.md", "jobs/edit-layers.md", "coming-from/torch-pruning.md")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


_INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)  # in a fence of `{ .python }`, which ruff leaves alone


def blocks(file: pathlib.Path, *kinds: str) -> list[tuple[str, str]]:
    """(kind, text) in order; files that the site includes are examples, and run as such."""
    return [(kind, text) for kind, text in _BLOCK.findall(file.read_text()) if kind in kinds]


def lines_of(text: str) -> list[str]:
    """Commands, continuation lines joined."""
    return [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]


@pytest.fixture
def begun(tmp_path, monkeypatch, digits_model):
    """The names that pages go on from, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    digits_model.save(tmp_path / "trained.keras")

    def train(x, y, epochs=12):
        keras.utils.set_random_seed(0)
        return keras.models.load_model(tmp_path / "trained.keras")

    fit = keras.Model.fit
    monkeypatch.setattr(demo, "train", train)
    monkeypatch.setattr(keras.Model, "fit", lambda self, *a, **k: fit(self, *a, **{**k, "epochs": 1}))
    names: dict[str, object] = {}
    _, text = blocks(PAGES["start.md"], "python")[0]
    exec(compile(text, "start.md", "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore:The schedule ends at step")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page in QUICK else [pytest.mark.slow])
        for page in PAGES
        if blocks(PAGES[page], "python", "console")
    ],
)
def test_every_block_runs(page, begun, capsys):
    found = blocks(PAGES[page], "python", "console")
    for kind, text in found[1:] if page == "start.md" else found:
        if kind == "python":
            exec(compile(text, page, "exec"), begun)
            continue
        for line in lines_of(text):
            assert line.startswith("$ tfstruct "), line
            capsys.readouterr()
            status = commands.main(shlex.split(line)[2:])
            # A budget that one epoch does not meet is no error of the page.
            assert status in ((0, 1) if " compress " in line else (0,)), (line, capsys.readouterr().err)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(PAGES[page], "sh")])
def test_commands_can_be_parsed(page):
    for _, text in blocks(PAGES[page], "sh"):
        for line in lines_of(text):
            words = shlex.split(line)
            if words[0] == "tfstruct":
                commands.parser().command(words[1]).parse_args(words[2:])


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(PAGES[page], "toml")])
def test_options_in_files_can_be_read(page, tmp_path):
    for _, text in blocks(PAGES[page], "toml"):
        for command in tomllib.loads(text):
            (tmp_path / "job.toml").write_text(text)
            values = configuration.read(str(tmp_path / "job.toml"), command)
            configuration.set_defaults(commands.parser().command(command), values, "job.toml")


def test_every_page_is_in_the_menu():
    menu = set(re.findall(r": ([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert menu == {str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md")}


def anchors(file: pathlib.Path) -> set[str]:
    """Of its headings, as the site makes them."""
    text = re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
    words = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {re.sub(r"[-\s]+", "-", title) for title in words}


@pytest.mark.parametrize("page", [*PAGES, *(name for name in OTHER if (ROOT / name).exists())])
def test_links_lead_somewhere(page):
    file = PAGES.get(page, ROOT / page)
    text = re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), (page, link)
        assert not anchor or anchor in anchors(target), (page, link, sorted(anchors(target)))
        inside = page in OTHER or page == "README.md" or DOCS in target.parents
        assert inside, f"{page}: {link} is no page of the site"


def test_included_files_and_scripts_in_commands_are_examples():
    for page, file in PAGES.items():
        names = _INCLUDED.findall(file.read_text())
        names += [
            words[1]
            for _, text in blocks(file, "sh")
            for words in map(shlex.split, lines_of(text))
            if words[0] == "python"
        ]
        for name in names:
            assert (ROOT / name).exists() and name.startswith(("examples/", "tools/")), (page, name)


def test_lines_are_short_and_blocks_are_of_known_kinds():
    for page, file in PAGES.items():
        kinds = {kind for kind, _ in _BLOCK.findall(file.read_text())}
        assert kinds <= {"", "python", "console", "sh", "toml"}, page
        long = [line for line in file.read_text().splitlines() if len(line) > 140 and not line.startswith(("|", "- |"))]
        assert not long, (page, long)


def test_the_api_pages_are_those_of_the_public_names():
    spec = importlib.util.spec_from_file_location("api_pages", ROOT / "tools" / "api_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = {file.name: file.read_text() for file in (DOCS / "api").glob("*.md")}
    assert written == module.pages(), "run: python tools/api_pages.py"


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="needs 'tfstruct[docs]'")
    # Not -q: with it mkdocs does not count warnings.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # an advertisement
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    page = (tmp_path / "site" / "api" / "callbacks" / "index.html").read_text()
    assert "Sets the least important weights to zero" in page


@pytest.mark.slow
def test_the_pictures_of_concepts_are_drawn_by_the_library(tmp_path):
    spec = importlib.util.spec_from_file_location("concept_pictures", ROOT / "tools" / "concept_pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = {file.name for file in module.main(tmp_path)}
    assert drawn == {file.name for file in (DOCS / "pictures").iterdir()}
    page = (DOCS / "concepts.md").read_text()
    assert all(f"](pictures/{name})" in page for name in drawn)
