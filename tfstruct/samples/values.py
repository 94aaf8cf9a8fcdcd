"""A value as an array of numbers in the shape and dtype of an input, or the error that says why it is none."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfstruct.errors import ArgumentError, DataError, one_line
from tfstruct.samples.spec import TensorSpec


def numbers(value: Any, place: str) -> np.ndarray:
    """`value` as an array of real numbers, without a copy where it is one."""
    several = isinstance(value, list | tuple) and len(value) and isinstance(value[0], Mapping)
    if several or isinstance(value, Iterator):
        what = "a list of dicts" if several else "an iterator"
        raise DataError(
            f"{place}: expected an array, received {what}. What gives samples or batches one after the other is data "
            "by itself: give it as it is, under no name."
        )
    try:
        array = np.asarray(value)
    # Any error: the value may be an object of any library.
    except Exception as error:
        raise DataError(
            f"{place}: expected an array of numbers, received {type(value).__name__} that makes none "
            f"({one_line(error)}). Give samples of one shape."
        ) from error
    if _is_extended(array.dtype):
        return array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{place}: expected numbers, received dtype {array.dtype}. Convert to numbers of one shape first."
        )
    return array


def number_dtype(name: str) -> np.dtype | None:
    """The dtype of that name, None if it is none of numbers."""
    try:
        dtype = np.dtype(name)
    except TypeError:
        import ml_dtypes  # it comes with TensorFlow

        dtype = np.dtype(getattr(ml_dtypes, name, object))
    return dtype if dtype.kind in "biuf" or _is_extended(dtype) else None


def require_numbers(inputs: Iterable[TensorSpec]) -> None:
    """Refuses inputs that no sample or file can fill: of strings, or of another dtype that is none of numbers.

    Args:
        inputs: the inputs of a model.

    Raises:
        DataError: there is one; the message says which layers to leave out.

    Example:
        >>> tfstruct.samples.require_numbers([tfstruct.samples.TensorSpec("features", (8,), "float32")])
        >>> tfstruct.samples.require_numbers([tfstruct.samples.TensorSpec("text", (), "string")])
        Traceback (most recent call last):
        ...
        tfstruct.errors.DataError: Input 'text': expected an input of numbers, received dtype string...
    """
    given = list(inputs) if isinstance(inputs, Iterable) else [inputs]
    if not all(isinstance(spec, TensorSpec) for spec in given):
        raise ArgumentError(f"`inputs` must be a list of TensorSpec. Received: {inputs!r}.")
    for spec in given:
        if number_dtype(spec.dtype) is None:
            raise DataError(
                f"Input '{spec.name}': expected an input of numbers, received dtype {spec.dtype}. Leave out the layers "
                "that turn text into numbers: keras.Model(model.get_layer(NAME).output, model.outputs) with the last "
                "of them as NAME, and feed it what they return."
            )


def dtype_of(spec: TensorSpec) -> np.dtype:
    """The dtype of an input; `open_samples` takes none but those of numbers."""
    dtype = number_dtype(spec.dtype)
    assert dtype is not None
    return dtype


def _is_extended(dtype: np.dtype) -> bool:
    """True for bfloat16 and the like, which NumPy knows as void."""
    return dtype.type.__module__.startswith("ml_dtypes")


def dims(spec: TensorSpec) -> str:
    """The shape of an input for a message: `(any, 3)`."""
    return str(tuple("any" if d is None else d for d in spec.shape)).replace("'", "")


def is_image(spec: TensorSpec) -> bool:
    """True if the input takes images or volumes, by its rank."""
    return len(spec.shape) in (3, 4)


def fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    """True if `shape` is the input's, up to a last axis of 1 that is missing or too many."""
    return (
        spec.accepts(shape)
        or (spec.shape[-1:] == (1,) and spec.accepts((*shape, 1)))
        or (shape[-1:] == (1,) and spec.accepts(shape[:-1]))
    )


def is_batch(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    """True if a value of `shape` is a batch of samples: by an exact fit, else by a near one, else by rank."""
    for fitting in (TensorSpec.accepts, fits):
        if fitting(spec, shape):
            return False
        if shape and fitting(spec, shape[1:]):
            return True
    return len(shape) == len(spec.shape) + 1


def fit(value: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Adds a missing last axis of 1, or drops one or a batch axis of 1, where that makes the value fit."""
    if spec.accepts(value.shape):
        return value
    if value.shape[:1] == (1,) and fits(spec, value.shape[1:]):
        value = value[0]
    if spec.shape[-1:] == (1,) and spec.accepts((*value.shape, 1)):
        return value[..., None]
    if value.shape[-1:] == (1,) and spec.accepts(value.shape[:-1]):
        return value[..., 0]
    return value


def unflattened(values: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Reshapes a flat list of values to the input where their number allows it, else leaves it flat."""
    with contextlib.suppress(ValueError):
        return values.reshape([-1 if d is None else d for d in spec.shape])
    return values


def checked_batch(values: np.ndarray, spec: TensorSpec, finite: bool = True) -> np.ndarray | None:
    """Samples along the first axis in the input's shape and dtype; None if they are not all right as they are."""
    batch = dataclasses.replace(spec, shape=(None, *spec.shape))
    if not batch.accepts(values.shape):
        if spec.shape[-1:] == (1,) and batch.accepts((*values.shape, 1)):
            values = values[..., None]
        elif values.shape[-1:] == (1,) and batch.accepts(values.shape[:-1]):
            values = values[..., 0]
        else:
            return None
    with contextlib.suppress(DataError):
        return checked(values, batch, "", finite, copy=False)
    return None


def checked(value: np.ndarray, spec: TensorSpec, place: str, finite: bool = True, copy: bool = True) -> np.ndarray:
    """The value in the input's shape and dtype, in memory of its own; DataError if it does not fit.

    Args:
        finite: whether NaN and infinity are refused.
        copy: False: in the memory of `value` where it is right as it is.
    """
    value = fit(value, spec)
    if not spec.accepts(value.shape):
        raise DataError(
            f"{place}: expected shape {dims(spec)}, received {value.shape}. {_shape_advice(value.shape, spec)}"
        )
    dtype = dtype_of(spec)
    is_float = value.dtype.kind == "f"
    if finite and is_float and not np.isfinite(value).all():
        found = "NaN" if np.isnan(value).any() else "infinity"
        raise DataError(f"{place}: expected finite values, received {found}. Clean the data.")
    if dtype.kind in "biu" and value.size:
        if is_float and (value != np.rint(value)).any():
            raise DataError(
                f"{place}: expected whole numbers for {dtype}, received fractions ({value.dtype}). Round the values, "
                "or leave out `scale`."
            )
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        least, most = int(value.min()), int(value.max())
        if least < low or most > high:
            raise DataError(
                f"{place}: expected values in [{low}, {high}] for {dtype}, received [{least}, {most}]. Clip or scale "
                "them."
            )
    with np.errstate(over="ignore"):
        result = np.array(value, dtype, order="C", copy=copy or None)
    if finite and is_float and dtype.kind not in "biu" and not np.isfinite(result).all():
        raise DataError(f"{place}: expected values within {dtype}, received up to {np.abs(value).max():g}. Scale them.")
    return result


def _shape_advice(shape: tuple[int, ...], spec: TensorSpec) -> str:
    if len(shape) == len(spec.shape) == 3:
        height, width, channels = spec.shape
        if channels in (None, shape[2]):
            size = "H,W" if None in spec.shape else f"{height},{width}"
            return f"Resize the images: `resize` of Preprocess (`--resize {size}`)."
        if spec.accepts((shape[2], *shape[:2])) or spec.accepts((*shape[1:], shape[0])):
            return "The channel axis stands elsewhere: transpose the samples."
        return "The channels differ: give images of the model's number of channels."
    return "Reshape the samples, or give a `function` that does."
