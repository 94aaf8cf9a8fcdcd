"""What operations do stands in one table for Keras and one for TensorFlow Lite: no file lists them a second time."""

import ast
import inspect
import pathlib

import keras
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfstruct.graph.operation_traits import _FUNCTIONS, _ROWS

ROOT = pathlib.Path(__file__).parents[1] / "tfstruct"
FEWEST = 3
KERAS = {name for name, kind in vars(keras.layers).items() if inspect.isclass(kind)} | {
    kind.__name__ for kind in _ROWS if kind.__module__.startswith("keras.")
}
LITE = {name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
# Lists that say nothing of what an operation does, or are the tables.
PLACES = {
    "graph/operation_traits.py": "the table of Keras",
    "tflite_operators.py": "the table of TensorFlow Lite",
    "graph/rules/": "channel rules, registered by type",
    "graph/opening/": "which operations are made for those that a layer traces to",
    "legacy/": "how models of Keras 2 are made again, by type",
    "untrusted/": "names that a file may hold",
    "convert/devices/": "what devices document, by operator",
    "convert/micro.py": "the functions of a library, by operator",
    "convert/replacements.py": "the layers that can stand for one that a device lacks",
    "analyze/traced_work.py": "operations of TensorFlow's graphs, a third vocabulary with some of the names",
    "analyze/drawing.py": "short names for a picture",
    "augment/": "layers that change images",
}


def _names(node: ast.AST) -> set[str]:
    """The names in a display, in what is unpacked in it, or behind `case`; of a dict, its keys."""
    parts = []
    if isinstance(node, ast.Set | ast.Tuple | ast.List):
        parts = node.elts
    elif isinstance(node, ast.Dict):
        parts = [key for key in node.keys if key is not None]
    elif isinstance(node, ast.Call):
        parts = node.args
    elif isinstance(node, ast.MatchOr):
        parts = [pattern.value for pattern in node.patterns if isinstance(pattern, ast.MatchValue)]
    found = set()
    for part in parts:
        part = part.value if isinstance(part, ast.Starred) else part
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            found.add(part.value)
        elif isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.Name):
            found.add(part.id)
        elif isinstance(part, ast.Tuple | ast.List):
            found |= _names(part)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) < 80:
        found |= set(node.value.split())  # names in one string, to be split
    return found


def _tables(source: str, known: set[str]) -> dict[int, set[str]]:
    """Line -> the names of operations in a list there."""
    found = {}
    tree = ast.parse(source)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
    }
    for node in ast.walk(tree):
        names = _names(node) & known if id(node) not in docs else set()
        if len(names) >= FEWEST:
            found[node.lineno] = names
    return found


def _searched() -> list[pathlib.Path]:
    paths = sorted(ROOT.rglob("*.py"))
    return [path for path in paths if not path.relative_to(ROOT).as_posix().startswith(tuple(PLACES))]


@pytest.mark.parametrize("known", [KERAS, LITE, set(_FUNCTIONS)], ids=["keras", "lite", "functions"])
def test_there_is_no_second_table(known):
    found = {
        f"{path.relative_to(ROOT)}:{line}": sorted(names)
        for path in _searched()
        for line, names in _tables(path.read_text(), known).items()
    }
    assert not found, "ask tfstruct.graph.operation_traits or tfstruct.tflite_operators instead"


@pytest.mark.parametrize(
    "source",
    [
        '_MOVERS = ("Reshape", "Flatten", "Permute")',
        "_MOVERS = {layers.Reshape, keras.layers.Flatten, Permute}",
        "_SIZES = {layers.Dense: 3, layers.Conv2D: 3, layers.Conv1D: 9}",
        "plain(call, layers.ReLU, layers.ELU, layers.PReLU)",
        'named("Relu Sigmoid Tanh")',
        'match kind:\n    case "Add" | "Subtract" | "Multiply":\n        pass',
        "kinds = [(layers.Dense, layers.Conv1D), layers.Conv2D]",
    ],
)
def test_a_second_table_is_found(source):
    assert _tables(source, KERAS)


def test_the_reasons_name_places_that_there_are():
    assert all((ROOT / place).exists() for place in PLACES)
