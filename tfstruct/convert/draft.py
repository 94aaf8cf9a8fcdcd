"""A model's file before anybody has trained or calibrated it: for questions about operators, size and latency."""

import os
from collections.abc import Mapping

import numpy as np

from tfstruct.convert import runtime
from tfstruct.convert.export import signature_of
from tfstruct.convert.latency import LatencyTable
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.recipe_data import random_samples
from tfstruct.convert.tflite import Converter
from tfstruct.errors import RecipeError
from tfstruct.graph.sizes import open_input

_SAMPLES = 4


def draft(
    model, precision: str = "int8", *, recipe: Recipe | None = None, process=None
) -> tuple[bytes, dict[str, tuple[str, ...]]]:
    """The file of a Keras model, and tensor -> Keras layers. Calibrated with random samples: its operators, shapes and
    size are those of the real file, its values are not.

    Args:
        recipe: what else shall be done; its data is replaced.
        process: a running `ConverterProcess` to use.
    """
    recipe = recipe or Recipe(precision=precision)
    samples = random_samples(signature_of(model, recipe.input_shapes), _SAMPLES)
    recipe = recipe.replace(
        calibration=lambda: (s.inputs for s in samples),
        calibrator="minmax",
        labels=None,
        verification=None,
        preprocess=type(recipe.preprocess)(),
        check_range=False,
        allow_float=True,
        rounding="nearest",
        require={},
    )
    with Converter(model, recipe.timeout, process=process) as converter:
        return converter.draft(recipe)


def measured_latency(
    model,
    precision: str = "int8",
    *,
    recipe: Recipe | None = None,
    table: LatencyTable | str | os.PathLike | None = None,
    threads: int = 1,
    seconds: float = 0.5,
    process=None,
) -> float:
    """The time of one inference of a Keras model's file, in microseconds.

    It is the median of single invocations on this machine, or the sum over the file's operators by a table of times
    measured on a device. For a budget of a device: `plan_channels(model, {"latency_us": 0.5}, latency=lambda m:
    measured_latency(m, table="board.json"))`.

    Args:
        model: a Keras model whose inputs have fixed sizes.
        precision: of the file.
        recipe: stands for more than a precision, such as layers with one of their own.
        table: a `LatencyTable`, or the path of one; None: the file is timed here.
        threads: of the interpreter.
        seconds: about how long the file is timed.
        process: a converter process that is running already.

    Returns:
        The microseconds.

    Raises:
        DataError: the table lacks an operator of the file.
        RecipeError: an input with open sizes.

    Example:
        >>> tfstruct.convert.measured_latency(model, seconds=0.01) > 0
        True
    """
    for spec in signature_of(model, recipe.input_shapes if recipe else None).inputs:
        _refuse_open(spec.name, spec.shape)
    content, layers = draft(model, precision, recipe=recipe, process=process)
    if table is None:
        return runtime.latency(content, zeros(content), threads, seconds).median_us
    table = table if isinstance(table, LatencyTable) else LatencyTable.read(table)
    return table.estimate(content, layers).total()


def zeros(content: bytes) -> Mapping[str, np.ndarray]:
    """One batch of zeros by input name, for a file of fixed shapes.

    Raises:
        RecipeError: the file has open ones.
    """
    ports = runtime.Runtime(content).inputs
    for port in ports:
        _refuse_open(port.name, port.shape[1:])
        if None in port.shape:
            raise RecipeError(f"The batch of the input {port.name!r} is open. A file can be timed with batch_size=1.")
    return {port.name: port.zeros() for port in ports}


def _refuse_open(name: str, shape) -> None:
    if None in shape:
        raise RecipeError(f"{open_input(name, shape)}. A file of open sizes cannot be timed. Fix them.")
