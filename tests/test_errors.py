"""Wrong arguments raise an error of tfstruct, and the built-in one that Keras users catch."""

import ast
import pathlib

import pytest

import tfstruct
from tfstruct import callbacks, layers, masks, optimizers, quantize, regularizers, schedules

ROOT = pathlib.Path(__file__).parents[1] / "tfstruct"
# They read files; whoever calls them makes a DataError or ModelError of it, with the name of the file.
READERS = ("convert/packing", "convert/file_bounds.py", "convert/flatbuffer.py", "untrusted/json_text.py")
WRONG = {
    "a schedule": lambda: schedules.ConstantRatio(2),
    "a callback": lambda: callbacks.Prune(1.5),
    "another": lambda: callbacks.Cluster(1),
    "a budget": lambda: callbacks.PruneChannels("macs"),
    "a layer": lambda: layers.DropBlock2D(2.0),
    "a pattern": lambda: masks.Pattern.parse("4:2"),
    "an optimizer": lambda: optimizers.Momentum(beta=1.0),
    "a scheme": lambda: quantize.Scheme("int7"),
    "a regularizer": lambda: regularizers.GroupLasso(-1.0),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_both(call):
    with pytest.raises(ValueError, match=r"Received|must|knows") as caught:
        call()
    assert isinstance(caught.value, tfstruct.TfstructError)


def test_built_in_errors_are_raised_by_readers_only():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(ROOT.rglob("*.py"))
        if not str(path.relative_to(ROOT)).startswith(READERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in ("ValueError", "TypeError")
    ]
    assert found == []
