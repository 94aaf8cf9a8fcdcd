"""The notebooks of the documentation run from top to bottom, and the ends of their cells have something to show."""

import ast
import json
import pathlib

import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def cells(file: pathlib.Path) -> list[dict]:
    return json.loads(file.read_text())["cells"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_kept_without_outputs_and_are_linked(file):
    assert len({cell["id"] for cell in cells(file)}) == len(cells(file))
    for cell in cells(file):
        assert not cell.get("outputs") and cell.get("execution_count") is None, "clear all outputs before you save"
    assert f"notebooks/{file.name}" in (file.parents[1] / "index.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run(file, tmp_path, monkeypatch):
    """As Jupyter runs them: the value of the last expression of a cell is shown."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    shown = []
    for cell in cells(file):
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, cell["id"], "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)
            shown.append(value)
            if type(value).__name__ == "Figure":
                assert value._repr_png_().startswith(b"\x89PNG")
            if type(value).__module__.startswith("tfstruct"):
                assert "<table" in value._repr_html_()
    assert sum(type(value).__module__.startswith("tfstruct") for value in shown) >= 2
    assert sum(type(value).__name__ == "Figure" for value in shown) >= 1
