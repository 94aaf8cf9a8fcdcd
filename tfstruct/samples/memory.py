"""Reads what is in memory or made on the way: arrays, a tf.data.Dataset, generators and other iterables."""

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfstruct.errors import DataError
from tfstruct.samples.rows import Inputs, LabelKey, Reader, Row, blamed, match_keys, same_count, unknown_label
from tfstruct.samples.values import dims, fits, is_batch, map_leaves, numbers


def read_memory(source: Any, inputs: Inputs, labels: LabelKey) -> Reader:
    """Opens arrays, a tf.data.Dataset, an iterable or a function that returns one."""
    arrays_of_inputs = (
        isinstance(source, list)
        and len(source) == len(inputs) > 1
        and all(getattr(a, "ndim", -1) == len(s.shape) + 1 for a, s in zip(source, inputs, strict=True))
    )
    if arrays_of_inputs or isinstance(source, (Mapping, tuple)) or hasattr(source, "__array__"):
        return _read_arrays(source, inputs, labels)
    name = getattr(source, "__name__", type(source).__name__)
    if is_dataset(source):
        name, make = "Dataset", source.as_numpy_iterator
    elif isinstance(source, Iterable):
        name, make = f"Generator {name}" if isinstance(source, Iterator) else name, source.__iter__
    elif callable(source):
        name, make = f"Function {name}", source
    else:
        raise DataError(
            "Expected samples as a path, an array, a tuple, dict or list of arrays, a tf.data.Dataset or a generator, "
            f"received {type(source).__name__}. Give one of these."
        )

    def rows() -> Iterator[Row]:
        number, end = 0, object()
        with blamed(name, "sample 0"):
            made = make()
            elements = iter(made) if isinstance(made, Iterable) else None
        if elements is None:
            raise DataError(f"{name}: expected it to return an iterable, received {type(made).__name__}. Yield.")
        for index in itertools.count():
            with blamed(name, f"sample {number}"):
                element = next(elements, end)
            if element is end:
                return
            place = f"{name}, element {index}"
            values, label = _by_name(element, inputs, labels, place)
            if all(is_batch(spec, values[spec.name].shape) for spec in inputs):
                found: Iterable[Row] = _split(values, label, place, f"batch {index}")
            else:
                found = [Row(values, label)]
            for row in found:
                number += 1
                yield row

    return Reader(name, None, rows, reiterable=not isinstance(source, Iterator))


def is_dataset(source: Any) -> bool:
    """True for a tf.data.Dataset, without importing TensorFlow: where it is not imported, there is none."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and hasattr(tensorflow, "data") and isinstance(source, tensorflow.data.Dataset)


def _read_arrays(source: Any, inputs: Inputs, labels: LabelKey) -> Reader:
    arrays, label = _by_name(source, inputs, labels, "The arrays")
    for spec in inputs:
        shape = arrays[spec.name].shape
        if not shape or (fits(spec, shape) and not fits(spec, shape[1:])):
            raise DataError(
                f"Array for input '{spec.name}': expected a batch axis and then {dims(spec)}, received one sample of "
                f"shape {shape}. Add the axis with array[None]."
            )
    count = _count(arrays, label, "The arrays")
    shapes = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
    return Reader(f"Arrays {shapes}", count, lambda: _split(arrays, label, "The arrays"))


def _split(values: Mapping[str, np.ndarray], label: Any, place: str, where: str = "") -> Iterator[Row]:
    """Yields the rows of a batch."""
    for i in range(_count(values, label, place)):
        row = {name: value[i] for name, value in values.items()}
        yield Row(row, map_leaves(lambda leaf: np.atleast_1d(leaf)[i], label), where)  # noqa: B023


def _count(values: Mapping[str, np.ndarray], label: Any, place: str) -> int:
    """The length of the batch axis of inputs and labels, which must agree."""
    counts = {name: len(value) for name, value in values.items()}
    map_leaves(lambda leaf: same_count({**counts, "labels": len(np.atleast_1d(leaf))}, place), label)
    return same_count(counts, place)


def _by_name(element: Any, inputs: Inputs, labels: LabelKey, place: str) -> tuple[dict[str, np.ndarray], Any]:
    """Takes x or (x, y) apart: `({input: array}, label)`, whether x is an array, a dict or a list."""
    x, y = element, None
    if isinstance(element, tuple):
        if not 1 <= len(element) <= 3:
            raise DataError(
                f"{place}: expected (x,), (x, y) or (x, y, weights), received {len(element)} parts. Regroup."
            )
        x, y, *_ = (*element, None)
    names = [spec.name for spec in inputs]
    if isinstance(x, Mapping):
        # With (dict, y) the labels are y, unless another key is asked for.
        matched, key = match_keys(x, inputs, labels, place, strict=True)
        values = {name: x[matched[name]] for name in names}
        y = x[key] if key is not None and (y is None or isinstance(labels, str)) else y
    elif isinstance(labels, str):
        raise unknown_label(labels, (), place)
    elif len(inputs) == 1:
        alone = isinstance(x, (list, tuple)) and len(x) == 1 and hasattr(x[0], "__array__")
        values = {names[0]: x[0] if alone and not inputs[0].accepts((1, *np.shape(x[0]))) else x}
    elif isinstance(x, (list, tuple)) and len(x) == len(inputs):
        values = dict(zip(names, x, strict=True))
    else:
        received = f"{len(x)} values" if isinstance(x, (list, tuple)) else type(x).__name__
        raise DataError(
            f"{place}: expected a value for each of the inputs {names}, received {received}. Give a dict by these "
            "names, or a list in this order."
        )
    values = {name: numbers(value, f"{place}, input '{name}'") for name, value in values.items()}
    return values, map_leaves(lambda leaf: numbers(leaf, f"{place}, labels"), y) if labels else None
