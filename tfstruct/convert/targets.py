"""Does a model fit a kind of device? Asked of the device's own runtime or compiler where it is installed.

print(check_target(model, "micro"))             # before training: a Keras model
print(check_target("model.tflite", "ethos-u"))  # after: a file
"""

import dataclasses
import os
from collections.abc import Mapping

from tfstruct.convert import flatbuffer
from tfstruct.convert.devices import device, devices
from tfstruct.convert.replacements import replacement
from tfstruct.convert.target_report import Row, TargetReport

TARGETS = tuple(one.name for one in devices())


def check_target(model_or_tflite, name: str, *, precision: str = "int8", recipe=None, process=None) -> TargetReport:
    """Checks every operator of a file, or of the file that a Keras model would become.

    Args:
        model_or_tflite: a `TFLiteModel`, the bytes or the path of a file, or a Keras model, trained or not: that
            one is converted and quantized with random samples, so the operators are those of the real file.
        name: of the device: one of `TARGETS`, or a variant such as `"ethos-u55-256"`.
        precision: of the file made from a Keras model.
        recipe: in its place, a `Recipe` for that file; its data is not read.
        process: a `ConverterProcess` that is running already, for many checks in a row.

    Returns:
        `TargetReport`: operator by operator whether it fits, and what to use instead; `.fits` as a whole.

    Raises:
        RecipeError: no such target.
        ConversionError: the model has an operator that TensorFlow Lite lacks; the Keras layer is named.

    Example:
        >>> tfstruct.check_target(model, "mobile").fits
        True
    """
    wanted = device(name)
    content, layers = _file(model_or_tflite, precision, recipe, process)
    found = flatbuffer.operators(content, layers)
    if not layers:
        found = [dataclasses.replace(op, layers=op.layers or flatbuffer.layers_by_name(op)) for op in found]
    verdict = wanted.judge(content, found)
    floats, rows = all(op.is_float for op in found), []
    for op, (fits, why) in zip(found, verdict.answers, strict=True):
        instead = "" if fits else replacement(op, wanted, floats)
        rows.append(Row(op.name, op.layers, op.dtype, fits, why, instead))
    return TargetReport(wanted.name, wanted.what, verdict.judge, tuple(rows), verdict.facts, verdict.notes)


def _file(given, precision: str, recipe, process) -> tuple[bytes, Mapping[str, tuple[str, ...]]]:
    """The bytes to judge, and tensor -> Keras layers where it is known."""
    if isinstance(given, str | os.PathLike):
        with open(given, "rb") as file:
            return file.read(), {}
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given), {}
    if hasattr(given, "content"):
        return given.content, given.layers
    from tfstruct.convert.draft import draft

    return draft(given, precision, recipe=recipe, process=process)
