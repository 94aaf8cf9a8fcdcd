"""What operations do stands in one table for Keras and one for TensorFlow Lite: no file lists them a second time."""

import ast
import inspect
import pathlib

import keras
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfstruct.graph.opening.composites import LAYERS
from tfstruct.graph.operation_traits import _FUNCTIONS, _ROWS
from tfstruct.graph.rules import rule_of

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


# Layers of Keras without a rule or without a row, by the reason. A new layer has to be put on one side.
WITHOUT_A_RULE = {
    "changes the colours of images, which are an input's": """
        AugMix AutoContrast ContrastLimitedAdaptiveHistogramEqualization CutMix Equalization MixUp Pipeline RandAugment
        RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomErasing RandomGrayscale
        RandomHue RandomInvert RandomPosterization RandomSaturation RandomSharpness Solarization""",
    "reads ids, words, boxes or sounds, which are an input's": """
        CategoryEncoding Discretization HashedCrossing Hashing IntegerLookup StringLookup TextVectorization
        MaxNumBoundingBoxes MelSpectrogram STFTSpectrogram""",
    "runs code that is not Keras's": "FlaxLayer JaxLayer TFSMLayer TorchModuleWrapper Lambda",
    "is a base, or no layer of a graph": "Layer Wrapper InputLayer InputSpec Input",
    "runs inside a recurrent layer, which has the rule": "GRUCell LSTMCell SimpleRNNCell StackedRNNCells",
}
WITHOUT_A_ROW = WITHOUT_A_RULE | {
    "does what the layer inside does": "TimeDistributed SpectralNormalization RNN",
    "is a loop of several operators": "ConvLSTM1D ConvLSTM2D ConvLSTM3D",
    "moves pixels between the places": """
        CenterCrop RandomCrop RandomElasticTransform RandomFlip RandomGaussianBlur RandomPerspective RandomRotation
        RandomShear RandomTranslation RandomZoom""",
    "is of several operators, by its sizes": """
        AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D AdaptiveMaxPooling1D
        AdaptiveMaxPooling2D AdaptiveMaxPooling3D""",
    "compares whole vectors": "Masking",
}


def _layer_classes() -> dict[str, type]:
    return {name: kind for name, kind in vars(keras.layers).items() if inspect.isclass(kind)}


def test_every_layer_has_a_rule_or_a_reason_to_have_none():
    closed = " ".join(WITHOUT_A_RULE.values()).split()
    found = [name for name, kind in _layer_classes().items() if rule_of(object.__new__(kind)) is None]
    assert sorted(name for name in found if name not in closed) == []


def test_every_layer_has_a_row_or_a_form_or_a_reason_to_have_none():
    closed = " ".join(WITHOUT_A_ROW.values()).split()
    found = [name for name, kind in _layer_classes().items() if kind not in _ROWS and kind not in LAYERS]
    assert sorted(name for name in found if name not in closed) == []
