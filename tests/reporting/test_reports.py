"""What holds for every report: text, table, JSON, HTML, files, and the picture where it has one."""

import ast
import csv
import importlib
import json
import pathlib
import re

import pytest
from report_examples import EXAMPLES, NAMELESS
from rich.console import Console

import tfstruct
from tfstruct.errors import ArgumentError, MissingPackageError
from tfstruct.markup import visible
from tfstruct.reporting import Plotted, Report

ROOT = pathlib.Path(tfstruct.__file__).parent
HOSTILE = "[/red]<b>&\x1b[31m|*\u202e`$\\x$"
SEVERAL = re.compile(r"(?<![\d.,])1 (?!of)[a-z]{3,}s\b(?<!bias)(?<!class)")  # "1 epochs"
SUFFIXES = (".json", ".html", ".txt", ".md", ".csv")


def _classes() -> dict[str, type]:
    """Every report class of the library; a file is imported where a class in it names the base."""
    for path in sorted(ROOT.rglob("*.py")):
        classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
        if any(ast.unparse(base).endswith(("Report", "ReportData")) for node in classes for base in node.bases):
            importlib.import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))
    found, waiting = {}, [Report]
    while waiting:
        own = [one for one in waiting.pop().__subclasses__() if one.__module__.startswith("tfstruct.")]
        found |= {one.__name__: one for one in own if not one.__subclasses__()}
        waiting += own
    return dict(sorted(found.items()))


CLASSES = _classes()
PLOTTED = sorted(name for name, one in CLASSES.items() if issubclass(one, Plotted))


def test_each_report_has_an_example():
    assert set(CLASSES) == set(EXAMPLES)
    assert all(type(EXAMPLES[name](HOSTILE)) is CLASSES[name] for name in CLASSES)


def test_forms_are_made_by_the_base():
    forms = {"_repr_html_", "table", "to_json", "plot"}
    own = [f"{name}.{form}" for name, one in CLASSES.items() for form in forms & set(vars(one))]
    assert own == ["CompressionReport.plot"]  # of one picture alone, by name


def test_figures_are_made_in_one_place():
    making = re.compile(r"(import|from) matplotlib(\.figure|\.backends|\.pyplot| import (rc|style))|savefig\(")
    found = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if making.search(path.read_text())}
    assert found == {"reporting/figures.py"}


@pytest.mark.parametrize("name", CLASSES)
def test_text_and_table_show_names_as_they_are(name):
    report = EXAMPLES[name](HOSTILE)
    text, shown = str(report), Console(width=300, color_system=None)
    with shown.capture() as captured:
        shown.print(report.table())
    for written in (text, captured.get()):
        assert "\x1b" not in written and "\u202e" not in written and written.strip()
    assert name in NAMELESS or (visible(HOSTILE) in captured.get() and visible(HOSTILE) in text)
    assert not SEVERAL.search(text)


@pytest.mark.parametrize("name", CLASSES)
def test_data_survives_json(name):
    report = EXAMPLES[name](HOSTILE)
    assert json.loads(report.to_json(), parse_constant=pytest.fail) == report.to_dict()


@pytest.mark.parametrize("name", CLASSES)
def test_a_notebook_shows_a_table(name):
    shown = EXAMPLES[name](HOSTILE)._repr_html_()
    assert "<table>" in shown and "<b>&\x1b" not in shown and "\x1b" not in shown
    assert name in NAMELESS or "[/red]&lt;b&gt;&amp;\\x1b[31m" in shown


@pytest.mark.parametrize("name", CLASSES)
def test_saved_by_suffix(name, tmp_path):
    report = EXAMPLES[name](HOSTILE)
    sheet = report.sheet()
    for suffix in SUFFIXES if sheet.columns else SUFFIXES[:-1]:
        report.save(tmp_path / f"report{suffix}")
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>") and "<table>" in page and "<b>&\x1b" not in page
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_dict()
    assert (tmp_path / "report.txt").read_text() == f"{report}\n"
    card = (tmp_path / "report.md").read_text()
    assert card.strip() and "<b>" not in card and "\x1b" not in card
    if sheet.columns:
        with open(tmp_path / "report.csv", newline="") as file:
            lines = list(csv.reader(file))
        assert lines[0] == sheet.header and len(lines) == 1 + len(sheet.rows) + len(sheet.left_alone)
    with pytest.raises(ArgumentError, match=r"ends in \.html, \.json, \.md\. Received"):
        report.save(tmp_path / "report.xls")


@pytest.mark.parametrize("name", PLOTTED)
@pytest.mark.sweep(7)
def test_picture(name, tmp_path):
    from matplotlib.figure import Figure

    report = EXAMPLES[name]("a layer $\\x$")
    figure = report.plot(tmp_path / "picture.png")
    assert isinstance(figure, Figure) and figure.axes
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    yours = Figure()
    left, right = yours.subplots(1, 2)
    assert report.plot(ax=right) is yours and not left.has_data() and len(left.texts) == 0
    yours.savefig(tmp_path / "yours.png")
    with pytest.raises(ArgumentError, match=r"ends in \.png, \.svg, \.pdf"):
        report.plot(tmp_path / "picture.nonsense")


def test_without_matplotlib_there_is_one_error(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in PLOTTED:
        with pytest.raises(MissingPackageError, match=r"pip install 'tfstruct\[plot\]'"):
            EXAMPLES[name](HOSTILE).plot()
    assert issubclass(MissingPackageError, ImportError)
    EXAMPLES["Profile"](HOSTILE).save(tmp_path / "page.html")
    assert "<svg" not in (tmp_path / "page.html").read_text()
