"""Patterns, budgets and precisions stand once: a second matcher, parser or table fails here."""

import ast
import pathlib

import pytest

from tfstruct.precisions import PRECISIONS

ROOT = pathlib.Path(__file__).parents[1] / "tfstruct"


def _found(kind) -> dict[str, list[int]]:
    """File -> lines of the nodes that `kind` says yes to."""
    lines: dict[str, list[int]] = {}
    for file in sorted(ROOT.rglob("*.py")):
        hits = [node.lineno for node in ast.walk(ast.parse(file.read_text())) if kind(node)]
        if hits:
            lines[file.relative_to(ROOT).as_posix()] = hits
    return lines


def _imports(*names):
    def kind(node) -> bool:
        if isinstance(node, ast.Import):
            return any(alias.name in names for alias in node.names)
        return isinstance(node, ast.ImportFrom) and node.module in names

    return kind


def _parses_percentages(node) -> bool:
    """`text.endswith("%")` and the like."""
    method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr
    cuts = ("endswith", "removesuffix", "rstrip", "strip", "split", "partition", "rpartition", "replace")
    return method in cuts and any(isinstance(a, ast.Constant) and a.value == "%" for a in node.args)


def _is_table_of_precisions(node) -> bool:
    """A set, tuple, list or dict of two or more precisions, and of nothing else."""
    values = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
    names = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return len(names) > 1 and len(names) == len(values) and set(names) <= set(PRECISIONS)


@pytest.mark.parametrize(
    "kind, places",
    [
        (_imports("fnmatch", "wcmatch"), {"patterns.py"}),
        # Files by pattern, which are no layers.
        (_imports("glob"), {"files.py", "samples/files.py", "cli/options.py", "convert/devices/ethos_u.py"}),
        (_parses_percentages, {"budgets.py"}),
        # The other says as what the kernels of operators store weights.
        (_is_table_of_precisions, {"precisions.py", "tflite_operators.py"}),
    ],
    ids=["layer patterns", "file patterns", "percentages", "precisions"],
)
def test_facts_stand_once(kind, places):
    assert set(_found(kind)) == places, _found(kind)


@pytest.mark.parametrize(
    "code, kind",
    [
        ("import fnmatch", _imports("fnmatch")),
        ("from fnmatch import fnmatchcase", _imports("fnmatch")),
        ("share = float(text.rstrip('%')) / 100", _parses_percentages),
        ("if precision in ('int8', 'int16x8'): pass", _is_table_of_precisions),
        ("bits = {'int4': 4, 'int8': 8}", _is_table_of_precisions),
    ],
)
def test_a_second_place_is_seen(code, kind):
    assert any(kind(node) for node in ast.walk(ast.parse(code)))


def test_tables_of_dtypes_are_no_tables_of_precisions():
    sizes = "{'int8': 1, 'int16': 2, 'float32': 4}"
    assert not any(_is_table_of_precisions(node) for node in ast.walk(ast.parse(sizes)))
