"""`--signature`: several models, or several signatures of one, as the functions of one file."""

import argparse
import copy
import os
from collections.abc import Mapping

from tfstruct.cli.exit_status import BELOW, FINE, fail
from tfstruct.cli.options import names_tflite
from tfstruct.errors import RecipeError, VerificationError

# What is given by function as NAME=DATA,...
_DATA = ("calibration", "verify", "labels")
_ALONE = ("c_array", "test_vectors", "all_precisions", "check_only", "streaming")


def functions_of(options) -> dict[str, argparse.Namespace] | None:
    """The options of each function by its name; None for a conversion of one model.

    Raises:
        RecipeError: names that do not fit, or options that are for one model.
    """
    found = _named_models(options)
    if found is None:
        if options.model is None:
            raise RecipeError("No model was given. Expected: MODEL -o OUT.tflite.")
        return None
    for flag in _ALONE:
        if getattr(options, flag, None):
            raise RecipeError(
                f"--{flag.replace('_', '-')} is for one model. Received the functions {', '.join(found)}."
            )
    _check_device(options, found)
    made = {}
    data = {flag: _by_function(flag, getattr(options, flag), found) for flag in _DATA}
    for name, (path, signature) in found.items():
        own = copy.copy(options)
        own.model, own.signature = path, signature
        for flag, given in data.items():
            setattr(own, flag, given.get(name) if isinstance(given, Mapping) else given)
        made[name] = own
    return made


def _named_models(options) -> dict[str, tuple[str, str | None]] | None:
    """Function -> path of its model, and the signature of that."""
    items = [item for item in (options.signature or "").split(",") if item]
    pairs = [item.partition("=") for item in items]
    files = {name: path for name, equals, path in pairs if equals}
    if not files:
        if len(items) > 1 and options.model is not None:
            twice = [name for name in dict.fromkeys(items) if items.count(name) > 1]
            if twice:
                raise RecipeError(f"--signature names {', '.join(twice)} twice. Expected each name once.")
            return {name: (options.model, name) for name in items}
        return None
    if len(files) < len(items):
        raise RecipeError(
            "--signature expects NAME=MODEL for each function, or NAME for one that the SavedModel MODEL has, each "
            f"name once. Received: {options.signature}."
        )
    if options.model is not None:
        raise RecipeError(f"--signature NAME=MODEL names all models. Leave {options.model!r} out.")
    for name, path in files.items():
        if names_tflite(path) or not name:
            raise RecipeError(f"--signature expects NAME=MODEL, of Keras models. Received: {name}={path}.")
    return {name: (path, None) for name, path in files.items()}


def _check_device(options, found: Mapping) -> None:
    from tfstruct.convert.devices import device

    if options.target is not None and not device(options.target).several_functions:
        raise RecipeError(
            f"--target {options.target} runs one function a file. Received the functions {', '.join(found)}: convert "
            "each to a file of its own."
        )


def _by_function(flag: str, given: str | None, found: Mapping) -> str | dict[str, str] | None:
    """Data for all functions, or by function."""
    if given is None or os.path.exists(given):
        return given
    pairs = [item.partition("=") for item in given.split(",")]
    if not all(equals and name in found for name, equals, _ in pairs):
        if any(equals for _, equals, _ in pairs):
            raise RecipeError(
                f"--{flag} expects DATA for all functions, or NAME=DATA,... of {', '.join(found)}. Received: {given}."
            )
        return given
    return {name: path for name, _, path in pairs}


def convert(models: Mapping, recipes: Mapping, show) -> tuple[object, int]:
    """The file of several models, and the exit status."""
    from tfstruct.convert import to_tflite

    try:
        return to_tflite(models, recipes, progress=show, verbose=0), FINE
    except VerificationError as error:
        return error.model, fail(str(error), BELOW)
