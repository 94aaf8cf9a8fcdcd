"""What is done to each sample before the model sees it."""

import contextlib
import dataclasses
import functools
import importlib
import math
import numbers as kinds
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tfstruct.arguments import is_number
from tfstruct.errors import DataError, RecipeError, one_line
from tfstruct.samples.rows import blamed
from tfstruct.samples.spec import TensorSpec
from tfstruct.samples.values import checked, checked_batch, dtype_of, fit, is_image, numbers


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What is done to each sample before the model sees it: `function((resize(x) * scale - mean) / std)`.

    With several inputs, `resize`, `scale`, `mean` and `std` apply to the images, that is, to the inputs of rank 3 or
    4 without the batch axis; the others are left as they are.

    Attributes:
        resize: (height, width) of images; bilinear, as `tf.image.resize`, and rounded where the model's input is of
            integers.
        scale: a factor.
        mean: one value, or one for each entry of the last axis.
        std: as `mean`.
        function: `"module:function"`, imported on first use with the working directory importable. It is called on a
            copy of the input of one sample (an array, or a dict of arrays by input name if there are several) and
            returns the same. Where it changes the number of axes, give single samples, for batches are told by
            theirs.

    Example:
        >>> tfstruct.samples.Preprocess(scale=1 / 127.5, mean=(1.0,))  # bytes to [-1, 1]
        Preprocess(resize=None, scale=0.00784..., mean=(1.0,), std=None, function=None)
    """

    resize: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    function: str | None = None

    def __post_init__(self):
        resize, mean, std = (_entries(value) for value in (self.resize, self.mean, self.std))
        sizes = [n for n in resize or () if isinstance(n, kinds.Integral) and int(n) > 0]
        if resize is not None and not len(resize) == len(sizes) == 2:
            raise DataError(f"`resize` must be two positive integers, (height, width). Received: {self.resize!r}.")
        if self.scale is not None and not (_is_real(self.scale) and self.scale != 0):
            raise DataError(f"`scale` must be a finite number other than 0. Received: {self.scale!r}.")
        for field, value in (("mean", mean), ("std", std)):
            if value is not None and not (value and all(map(_is_real, value))):
                raise DataError(
                    f"`{field}` must be one finite number, or one for each channel. Received: {getattr(self, field)!r}."
                )
        if std is not None and min(std) <= 0:
            raise DataError(f"`std` must be above 0. Received: {self.std}.")
        if self.function is not None and not re.fullmatch(r"[\w.]+:[\w.]+", str(self.function)):
            raise DataError(f"`function` must read 'module:function', with a colon. Received: {self.function!r}.")
        for field, value in (("resize", resize), ("mean", mean), ("std", std)):
            object.__setattr__(self, field, value)

    @property
    def changes_values(self) -> bool:
        """Whether it does more than to resize."""
        return dataclasses.replace(self, resize=None) != Preprocess()


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Makes of the raw values of one sample what the model takes."""

    inputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    finite: bool = True  # refuse NaN and infinity

    def batch(self, values: Mapping[str, np.ndarray]) -> list[np.ndarray] | None:
        """Samples along the first axis, by input, where nothing has to be done to them; else None."""
        if self.preprocess != Preprocess():
            return None
        found = []
        for spec in self.inputs:
            if (array := checked_batch(values[spec.name], spec, self.finite)) is None:
                return None
            found.append(array)
        return found

    def __call__(self, values: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
        values = dict(values)
        for spec in self.inputs:
            if len(self.inputs) == 1 or is_image(spec):
                place = f"Input '{spec.name}' of {where}"
                values[spec.name] = _transformed(values[spec.name], spec, self.preprocess, place)
        if name := self.preprocess.function:
            values = _call(self._function, name, values, where)
            where = f"{where}, after '{name}'"
        return {s.name: checked(values[s.name], s, f"Input '{s.name}' of {where}", self.finite) for s in self.inputs}

    @functools.cached_property
    def _function(self) -> Callable:
        name = self.preprocess.function
        assert name is not None  # asked for only where there is one
        return _import_function(name)


def _entries(value: Any) -> tuple | None:
    """One number, or a list as JSON has it, as a tuple."""
    return value if value is None else tuple(value) if isinstance(value, Iterable) else (value,)


def _is_real(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def before_resize(spec: TensorSpec, preprocess: Preprocess) -> TensorSpec:
    """What fits the input before images are resized: `spec` with height and width open."""
    rank = len(spec.shape)
    if preprocess.resize is None or rank not in (2, 3, 4):
        return spec
    at = rank // 4  # volumes have a depth first
    return dataclasses.replace(spec, shape=(*spec.shape[:at], None, None, *spec.shape[at + 2 :]))


def _transformed(value: np.ndarray, spec: TensorSpec, preprocess: Preprocess, place: str) -> np.ndarray:
    """resize, scale, mean and std; in float32, or float64 where the values are such or wide integers."""
    value = fit(value, before_resize(spec, preprocess))
    if preprocess.resize is not None:
        value = _resized(value, preprocess.resize, place)
        if dtype_of(spec).kind in "iu":
            value = np.rint(value)
    if preprocess.scale is preprocess.mean is preprocess.std is None:
        return value
    value = value.astype(np.promote_types(value.dtype, np.float32))
    with np.errstate(all="ignore"):  # what comes out of range is found later
        mean = _per_channel("mean", preprocess.mean or (0,), value, place)
        std = _per_channel("std", preprocess.std or (1,), value, place)
        return (value * value.dtype.type(preprocess.scale or 1) - mean) / std


def _per_channel(field: str, entries: tuple[float, ...], value: np.ndarray, place: str) -> np.ndarray:
    if len(entries) != 1 and value.shape[-1:] != (len(entries),):
        raise DataError(
            f"{place}: expected one `{field}`, or one for each entry of the last axis of shape {value.shape}, received "
            f"{len(entries)}. Give one or as many."
        )
    return np.array(entries, value.dtype).squeeze()


def _resized(value: np.ndarray, size: tuple[int, int], place: str) -> np.ndarray:
    if value.ndim not in (2, 3, 4) or value.size == 0:
        raise DataError(
            f"{place}: `resize` expects images of (height, width, channels), received shape {value.shape}. Leave "
            "`resize` out, or give images."
        )
    image = value[..., None] if value.ndim == 2 else value
    if image.shape[-3:-1] == size:
        return value
    import tensorflow as tf

    with tf.device("CPU:0"):  # one sample at a time is no work for an accelerator
        image = tf.image.resize(image, size, "bilinear").numpy()
    return image[..., 0] if value.ndim == 2 else image


def _call(function: Callable, name: str, values: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The user's function on the inputs of one sample."""
    # A copy: a function that works in place must not write to the user's array, or to a read-only map.
    values = {key: np.array(value) for key, value in values.items()}
    first, *others = values
    with blamed(f"The function '{name}'", where):
        result = function(values if others else values[first])
    if not others and result is not None:
        result = {first: result}
    if not isinstance(result, Mapping) or set(result) != set(values):
        expected = f"a dict with the keys {sorted(values)}" if others else "an array"
        received = sorted(map(str, result)) if isinstance(result, Mapping) else type(result).__name__
        raise DataError(f"The function '{name}' must return {expected}; it returned {received} on {where}. Correct it.")
    return {key: numbers(value, f"Result of '{name}' for '{key}' of {where}") for key, value in result.items()}


class FunctionOfFile(str):
    """The name of a function that stood in a file: it is not imported, as importing runs code."""


def _import_function(name: str) -> Callable:
    """Imports `"module:function"`, from the working directory too."""
    if isinstance(name, FunctionOfFile):
        raise RecipeError(
            f"The recipe asks for the function '{name}', and would import that module. Read it with "
            "Recipe.from_json(text, trust=True) if you know where it comes from, or give preprocess=Preprocess(...)."
        )
    module_name, _, attribute = name.partition(":")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        module = importlib.import_module(module_name)
    # Any error, and sys.exit of a script too: the module is the user's.
    except (Exception, SystemExit) as error:
        raise DataError(
            f"`function` '{name}': expected a module '{module_name}', received {type(error).__name__} when importing "
            f"it from {folder}: {one_line(error)}. Check the name and the working directory."
        ) from error
    finally:
        with contextlib.suppress(ValueError):  # the module may have taken it out
            sys.path.remove(folder)
    function: Any = module
    for part in attribute.split("."):
        function = getattr(function, part, None)
    if function is None:
        raise DataError(
            f"`function` '{name}': the module '{module_name}' ({getattr(module, '__file__', 'built in')}) has no "
            f"'{attribute}'. Check the name."
        )
    if not callable(function):
        raise DataError(f"`function` '{name}': expected a function, received {type(function).__name__}. Name one.")
    return function
