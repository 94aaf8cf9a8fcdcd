"""Several models converted to one file: each by its recipe and its data, then joined."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfstruct.convert.converter import ConverterProcess
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.signature_file import SignatureFile
from tfstruct.convert.signatures import check_names
from tfstruct.convert.tflite_model import TFLiteModel
from tfstruct.errors import ArgumentError, ConversionError, DataError, RecipeError, VerificationError
from tfstruct.streaming import Streaming
from tfstruct.terminal import Progress

_DATA = ("calibration", "verification", "labels")


def converted(
    models: Mapping, recipe, fields: Mapping, progress: Progress, converter: Callable[..., Any]
) -> SignatureFile:
    """The file of several models.

    Args:
        models: name of the function -> what is converted.
        recipe: of all, or name -> that of the function. Calibration and verification data, and labels, are given by
            name where they differ; else each function gets the same.
        fields: of the recipes, in place of their own.
        progress: is told the stages of each.
        converter: the class `Converter`, which stands in front of this.

    Raises:
        VerificationError: functions fall short of what their recipes require; the file is in its `model`.
    """
    check_names(models)
    for name, model in models.items():
        if isinstance(model, Streaming):
            raise ArgumentError(
                f"{name!r} is a streaming model, whose states belong to a file of its own. Convert it alone, "
                "to_tflite(streaming)."
            )
    recipes = {name: _recipe_of(recipe, name, models, fields) for name in models}
    made: dict[str, TFLiteModel] = {}
    short = []
    with ConverterProcess(max(one.timeout for one in recipes.values())) as process:
        for name, model in models.items():

            def told(stage: str, done: int, total: int | None, name: str = name) -> None:
                progress(f"{name}: {stage}", done, total)

            try:
                with _named(name), converter(model, recipes[name].timeout, told, process) as one:
                    made[name] = one.convert(recipes[name])
            except VerificationError as error:
                made[name] = error.model
                short.append(f"{name}: {error}")
    found = SignatureFile.of(made)
    if short:
        raise VerificationError(" ".join(short), found)
    return found


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts the function's name in front of an error."""
    try:
        yield
    except VerificationError:
        raise
    except ConversionError as error:
        raise ConversionError(f"Function {name!r}: {error}", error.layers) from error
    except (RecipeError, DataError) as error:
        hint = "Recipes and data can be given by function, as dicts."
        raise type(error)(f"Function {name!r}: {error} {hint}") from error


def _recipe_of(recipe, name: str, models: Mapping, fields: Mapping) -> Recipe:
    if isinstance(recipe, Mapping):
        _check_names(recipe, models, "recipes")
        if name not in recipe:
            raise RecipeError(f"There is no recipe for the function {name!r}. Expected one for each of {list(models)}.")
        recipe = recipe[name]
    found = Recipe.of(recipe, **fields)
    return found.replace(**{field: _own(getattr(found, field), name, models, field) for field in _DATA})


def _own(given, name: str, models: Mapping, field: str):
    """What of data belongs to a function."""
    if not isinstance(given, Mapping) or not set(given) & set(models):
        return given
    _check_names(given, models, field)
    return given.get(name)


def _check_names(given: Mapping, models: Mapping, what: str) -> None:
    unknown = [name for name in given if name not in models]
    if unknown:
        raise RecipeError(f"`{what}` names the functions {unknown}. There are: {list(models)}.")
