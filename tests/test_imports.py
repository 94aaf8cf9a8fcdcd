"""The rules of ARCHITECTURE.md about imports."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "tfstruct"
# What each room may import of ours, besides itself. Imports run one way.
EVERYWHERE = ("lazy", "keras_internals", "arguments")  # what any room may import
ALLOWED = {
    "lazy": set(),
    "arguments": {"errors"},
    "keras_internals": {"errors", "forks"},
    "tflite_operators": set(),
    "errors": {"markup"},
    "files": {"forks"},
    "forks": set(),
    "former_names": {"errors"},
    "precisions": set(),
    "budgets": {"errors"},
    "markup": set(),
    "reporting": {"errors", "files", "markup"},
    "quantize": {
        "terminal",
        "reporting",
        "precisions",
        "budgets",
        "errors",
        "graph",
        "samples",
        "analyze",
        "untrusted",
        "patterns",
        "former_names",
    },
    "samples": {"errors"},
    "graph": {"errors", "files", "forks", "patterns", "tflite_operators"},
    "analyze": {
        "terminal",
        "reporting",
        "errors",
        "files",
        "former_names",
        "graph",
        "samples",
        "tflite_operators",
        "untrusted",
    },
    "convert": {
        "terminal",
        "reporting",
        "tflite_operators",
        "precisions",
        "errors",
        "files",
        "graph",
        "markup",
        "samples",
        "quantize",
        "untrusted",
        "patterns",
        "streaming",
        "forks",
    },
    "streaming": {"reporting", "errors", "graph", "samples", "patterns"},
    "untrusted": {"errors"},
    "legacy": {"errors", "untrusted"},
    "surgery": {"reporting", "budgets", "errors", "files", "graph", "samples", "analyze", "untrusted", "patterns"},
    "masks": {"errors"},
    "kmeans": set(),
    "codebooks": {"kmeans"},
    "patterns": {"errors"},
    "schedules": {"reporting", "errors"},
    "optimizers": {"errors", "graph", "analyze", "schedules"},
    "regularizers": {"reporting", "errors", "graph", "patterns"},
    "layers": {"reporting", "errors", "graph", "samples", "schedules"},
    "initializers": {"reporting", "errors", "graph", "samples", "analyze"},
    "callbacks": {
        "reporting",
        "errors",
        "files",
        "masks",
        "codebooks",
        "quantize",
        "schedules",
        "graph",
        "samples",
        "analyze",
        "surgery",
    },
    "augment": {"reporting", "errors"},
    "distill": {"reporting", "errors", "files", "graph", "samples", "surgery", "callbacks", "patterns", "untrusted"},
    "compression": {
        "terminal",
        "precisions",
        "reporting",
        "budgets",
        "errors",
        "files",
        "markup",
        "samples",
        "graph",
        "analyze",
        "surgery",
        "schedules",
        "callbacks",
        "quantize",
        "convert",
        "augment",
        "distill",
        "tflite_operators",
        "untrusted",
    },
    "tfmot": {"errors", "callbacks", "graph", "quantize", "schedules"},
    "demo": set(),
    "terminal": {"arguments", "errors"},
    "__main__": {"cli"},
    "cli": {
        "precisions",
        "analyze",
        "budgets",
        "errors",
        "files",
        "samples",
        "untrusted",
        "convert",
        "legacy",
        "demo",
        "streaming",
        "surgery",
        "compression",
        "terminal",
    },
}


def _imports(file: pathlib.Path):
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "tfstruct" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_run_one_way(room):
    place = ROOT / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    found = {name for file in files for name in _imports(file)} - {room, *EVERYWHERE}
    assert files
    assert found <= ALLOWED[room], f"{room} imports {sorted(found - ALLOWED[room])}"


def test_every_room_has_a_rule():
    rooms = {
        p.stem if p.is_file() else p.name for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert rooms - {"__init__"} == set(ALLOWED)


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_tfstruct_loads_nothing_heavy():
    loaded = _modules_after("import tfstruct, tfstruct.analyze, tfstruct.convert, tfstruct.samples, tfstruct.cli")
    heavy = {"tensorflow", "keras", "tensorflow_model_optimization", "matplotlib", "ai_edge_litert", "litert_quantizer"}
    assert not loaded & heavy
    assert "tfstruct.convert.tflite" not in loaded


def test_public_names_exist():
    import tfstruct

    for name in tfstruct.__all__:
        assert getattr(tfstruct, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tfstruct.nonsense


def test_files_load_after_importing_the_rooms_of_their_classes():
    names = {
        "schedules": ["Warmup", "PolynomialRatio"],
        "optimizers": ["Momentum", "StructuredSparse"],
        "layers": ["DropConnect", "HardConcrete"],
        "regularizers": ["GroupLasso"],
        "initializers": ["Mean"],
        "surgery": ["Opened", "OpenedCell", "Weight", "Constant", "Sized", "Masked"],
    }
    rooms = ", ".join(f"tfstruct.{room}" for room in names)
    classes = [f"tfstruct>{name}" for found in names.values() for name in found]
    code = f"import keras, {rooms}; print([n for n in {classes} if not keras.saving.get_registered_object(n)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
