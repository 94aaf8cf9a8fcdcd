"""No module of tfstruct imports, by whatever way, one that imports it: also inside a room, also late or for types."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def modules(folder: pathlib.Path) -> dict[str, ast.Module]:
    """Name -> syntax tree of every module below `folder`."""
    found = {}
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(file.read_text())
    return found


def imports(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Module -> the modules that its import statements name, those inside functions and `TYPE_CHECKING` too. A name
    that a package loads on first use stands for the module that has it."""
    late = {f"{package}.{name}": home for package, tree in trees.items() for name, home in _late(package, tree)}

    def home(name: str) -> str:
        name = late.get(name, name)
        while name and name not in trees:
            name = name.rpartition(".")[0]
        return name

    found = {}
    for module, tree in trees.items():
        names: list[str] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{module}: relative import"
                names += [f"{node.module}.{alias.name}" for alias in node.names]
        found[module] = {home(name) for name in names} - {"", module}
    return found


def _late(package: str, tree: ast.Module):
    """(name, module) of the tables that `lazy.names` is called with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy.names" and isinstance(node.args[1], ast.Dict):
            for name, home in zip(node.args[1].keys, node.args[1].values, strict=True):
                if isinstance(name, ast.Constant) and isinstance(home, ast.Constant):
                    yield name.value, f"{package}.{home.value or name.value}"


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules of which each reaches each (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        path.append(module)
        for other in sorted(graph[module]):
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in path:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            circle = path[path.index(module) :]
            del path[path.index(module) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for module in sorted(graph):
        if module not in number:
            visit(module)
    return found


def test_no_module_is_imported_by_what_it_imports():
    assert circles(imports(modules(ROOT / "tfstruct"))) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from toy.b import name",
        "from toy import name",
        "def late():\n    import toy.b",
        "if TYPE_CHECKING:\n    from toy.b import name",
    ],
)
def test_a_circle_is_found_whatever_way_it_is_closed(tmp_path, statement):
    room = tmp_path / "toy"
    room.mkdir()
    table = 'from toy import lazy\n__getattr__, __dir__, __all__ = lazy.names(__name__, {"name": "b"})\n'
    for file, text in {"__init__": table, "lazy": "", "a": statement, "b": "import toy.a", "c": "import toy.b"}.items():
        (room / f"{file}.py").write_text(text)
    assert circles(imports(modules(room))) == [["toy.a", "toy.b"]]
