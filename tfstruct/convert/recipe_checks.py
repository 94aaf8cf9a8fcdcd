"""Does a recipe fit a model, and has it the data that it needs?"""

from collections.abc import Mapping

import keras

from tfstruct.convert import trained
from tfstruct.convert.export import signature_of
from tfstruct.convert.recipe import Recipe
from tfstruct.errors import RecipeError
from tfstruct.graph.kernels import kernels
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.patterns import matches


def check_layers(model: keras.Model, recipe: Recipe) -> None:
    """Refuses patterns, ranges and limits that name nothing in the model."""
    paths = list(layer_paths(model))
    for pattern in recipe.layers:
        if not any(matches(pattern, path) for path in paths):
            shown = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
            raise RecipeError(f"The pattern {pattern!r} matches no layer of {model.name!r}. Its layers are: {shown}.")
    known = {*paths, *(p + trained.BEFORE for p in paths), *(s.name for s in signature_of(model).inputs)}
    unknown = [name for name in recipe.ranges if name not in known]
    if unknown:
        raise RecipeError(f"`ranges` names {unknown}, which are no layers or inputs of {model.name!r}.")
    own = {kernel.name for kernel in kernels(model, depthwise=True)} if recipe.weight_limits else set()
    unknown = [name for name in recipe.weight_limits if name not in own]
    if unknown:
        raise RecipeError(f"`weight_limits` names {unknown}, which are no kernels of {model.name!r}.")


def check_data(recipe: Recipe) -> None:
    """Refuses a precision or a rounding that needs calibration data, where there is none, and types of inputs and
    outputs, where there are no integers."""
    for field in ("input_type", "output_type"):
        given = getattr(recipe, field)
        kinds = set(given.values()) if isinstance(given, Mapping) else {given} - {None}
        if kinds - {"float32"} and not recipe.quantizes_activations:
            raise RecipeError(
                f"`{field}` {given!r} needs activations that are integers. Use precision='int8' or 'int16x8' with "
                f"calibration data. Received precision {recipe.precision!r}, whose inputs and outputs are float32."
            )
    if recipe.calibration is None and recipe.quantizes_activations and not recipe.ranges:
        raise RecipeError(
            f"Precision {recipe.precision!r} needs calibration data for the ranges of the activations: "
            "Recipe(calibration=...), --calibration DATA. Expected some 100 to 500 samples as in training."
        )
    if recipe.calibration is None and recipe.rounding == "gptq":
        raise RecipeError("`rounding='gptq'` needs calibration data: Recipe(calibration=...).")
