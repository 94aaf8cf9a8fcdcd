"""Does a model fit a kind of device? Asked of the device's own runtime or compiler where it is installed.

print(check_target(model, "micro"))                # before training: a Keras model
print(check_target("model.tflite", "ethos-u"))     # after: a file
print(check_target("model.tflite", "cortex-m4"))   # a board: its flash and RAM too
print(check_target("model.tflite", "all"))         # one table, operators against devices
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Literal, overload

from tfstruct.convert import flatbuffer
from tfstruct.convert.devices import device, devices, is_all, of_board
from tfstruct.convert.devices.boards import Board, boards
from tfstruct.convert.devices.device import NOBODY, Device, Verdict
from tfstruct.convert.ports import function_graphs
from tfstruct.convert.replacements import replacement
from tfstruct.convert.target_report import Row, TargetReport
from tfstruct.convert.target_table import TargetTable
from tfstruct.convert.verification import read_content
from tfstruct.errors import ConversionError

TARGETS = tuple(one.name for one in devices())


@overload
def check_target(
    model_or_tflite, name: Literal["all"] | Sequence[str | Board], *, precision: str = ..., recipe=..., process=...
) -> TargetTable: ...
@overload
def check_target(
    model_or_tflite, name: str | Board, *, precision: str = ..., recipe=..., process=...
) -> TargetReport: ...
def check_target(model_or_tflite, name, *, precision: str = "int8", recipe=None, process=None):
    """Checks every operator of a file, or of the file that a Keras model would become.

    Args:
        model_or_tflite: a `TFLiteModel`, the bytes or the path of a file, or a Keras model, trained or not: that
            one is converted and quantized with random samples, so the operators are those of the real file.
        name: of the device: one of `TARGETS`, a variant such as `"ethos-u55-256"`, a board such as
            `"cortex-m4:nano33ble"` (`"cortex-m4"` is the first of its boards), whose flash and RAM are checked too,
            or a `Board` of your own. `"all"`, or a list of them, for one table.
        precision: of the file made from a Keras model.
        recipe: in its place, a `Recipe` for that file; its data is not read.
        process: a `ConverterProcess` that is running already, for many checks in a row.

    Returns:
        `TargetReport`: operator by operator whether it fits, and what to use instead; `.fits` as a whole, None where
        that is not known. For `"all"` and lists a `TargetTable`, operators against devices.

    Raises:
        RecipeError: no such target.
        ConversionError: a file of several functions, for a device that runs one; or the model has an operator that
            TensorFlow Lite lacks; the Keras layer is named.

    Example:
        >>> tfstruct.check_target(model, "mobile").fits
        True
        >>> tfstruct.check_target(model, ["mobile", "micro", "cortex-m4"]).fitting
        ('mobile', 'micro', 'cortex-m4:nano33ble')
    """
    wanted = _wanted(name)
    content, layers = _file(model_or_tflite, precision, recipe, process)
    found = flatbuffer.operators(content, layers)
    if not layers:
        found = [dataclasses.replace(op, layers=op.layers or flatbuffer.layers_by_name(op)) for op in found]
    if isinstance(wanted, Device):
        problem = _function_problem(wanted, content)
        if problem:
            raise ConversionError(f"{wanted.name} {problem}")
        return _report(wanted, wanted.judge(content, found), found)
    return TargetTable(tuple(_report(one, _asked(one, content, found), found) for one in wanted))


def _wanted(name) -> Device | list[Device]:
    if is_all(name):
        return [*devices(), *(device(board.name) for board in boards())]
    if isinstance(name, Board):
        return of_board(name)
    if isinstance(name, list | tuple):
        return [of_board(one) if isinstance(one, Board) else device(one) for one in name]
    return device(name)


def _function_problem(wanted: Device, content: bytes) -> str:
    """Why a device cannot be asked about a file of several functions; "" where it can."""
    functions = function_graphs(content)
    if len(functions) < 2 or wanted.several_functions:
        return ""
    return (
        f"runs the first graph of a file alone, and the file has the functions {', '.join(functions)}. Ask about each "
        "as a file of its own: tfstruct.convert.split_signatures(file)."
    )


def _asked(wanted: Device, content: bytes, found: Sequence[flatbuffer.Operator]) -> Verdict:
    """A judge's verdict; where it fails, all is unknown: the other devices are judged all the same."""
    problem = _function_problem(wanted, content)
    if problem:
        return Verdict(NOBODY, [(None, "one function a file")] * len(found), (), (problem,))
    try:
        return wanted.judge(content, found)
    except ConversionError as error:
        return Verdict(NOBODY, [(None, str(error).rstrip("."))] * len(found), (), (str(error),))


def _report(wanted: Device, verdict: Verdict, found: Sequence[flatbuffer.Operator]) -> TargetReport:
    floats, rows = all(op.is_float for op in found), []
    for op, (fits, why) in zip(found, verdict.answers, strict=True):
        instead = replacement(op, wanted, floats) if fits is False else ""
        rows.append(Row(op.name, op.layers, op.dtype, fits, why, instead))
    return TargetReport(
        wanted.name, wanted.what, verdict.judge, tuple(rows), verdict.facts, verdict.notes, verdict.memory
    )


def _file(given, precision: str, recipe, process) -> tuple[bytes, Mapping[str, tuple[str, ...]]]:
    """The bytes to judge, and tensor -> Keras layers where it is known."""
    if isinstance(given, str | os.PathLike | bytes | bytearray | memoryview):
        return read_content(given), {}
    if hasattr(given, "content"):
        return given.content, given.layers
    from tfstruct.convert.draft import draft

    return draft(given, precision, recipe=recipe, process=process)
