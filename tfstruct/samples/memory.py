"""Reads what is in memory or made on the way: arrays, tf.data, PyDatasets, generators and other iterables."""

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfstruct.errors import DataError
from tfstruct.samples.rows import (
    Block,
    Inputs,
    LabelKey,
    Reader,
    Row,
    blamed,
    map_leaves,
    match_keys,
    same_count,
    unknown_label,
)  # fmt: skip
from tfstruct.samples.spec import TensorSpec
from tfstruct.samples.values import dims, fits, is_batch, numbers


def read_memory(source: Any, inputs: Inputs, labels: LabelKey, outputs: int = 1) -> Reader:
    """Opens arrays, a tf.data.Dataset, a PyDataset, an iterable or a function that returns one."""
    arrays = isinstance(source, list) and len(source) > 1 and all(hasattr(one, "shape") for one in source)
    if arrays and len(source) == len(inputs) and all(map(_is_one_more_axis, source, inputs)):
        return _read_arrays(source, inputs, labels, outputs)
    if isinstance(source, (Mapping, tuple)) or hasattr(source, "__array__"):
        return _read_arrays(source, inputs, labels, outputs)
    if arrays and len(inputs) == 1 and all(_is_one_more_axis(one, inputs[0]) and len(one) > 1 for one in source):
        raise DataError(
            f"Expected the inputs ['{inputs[0].name}'], received a list of {len(source)} arrays, which is read as one "
            "for each input. Join batches by np.concatenate, or give them as (x,) each."
        )
    name = getattr(source, "__name__", type(source).__name__)
    if is_dataset(source):
        name, make = "Dataset", source.as_numpy_iterator
    elif isinstance(source, Iterable):
        name, make = f"Generator {name}" if isinstance(source, Iterator) else name, source.__iter__
    elif callable(source):
        name, make = f"Function {name}", source
    else:
        raise DataError(
            "Expected samples as a path, an array, a tuple (x, y), a dict or list of arrays, a tf.data.Dataset, a "
            f"PyDataset or a generator, received {type(source).__name__}. Give one of these."
        )

    def rows() -> Iterator[Row | Block]:
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
            values, label, weight, lengths = _by_name(element, inputs, labels, outputs, place)
            if all(is_batch(spec, values[spec.name].shape) for spec in inputs):
                count = _count(values, lengths, place)
                yield Block(values, label, weight, count, f"batch {index}")
                number += count
            else:
                yield Row(values, label, "", weight)
                number += 1

    return Reader(name, None, rows, reiterable=not isinstance(source, Iterator))


def is_endless(source: Any) -> bool:
    """True for a tf.data.Dataset that repeats without end, or a PyDataset without a number of batches."""
    if is_dataset(source):
        return int(source.cardinality()) == -1  # tf.data.INFINITE_CARDINALITY
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(source, keras.utils.PyDataset):
        return False
    try:
        return source.num_batches is None
    except NotImplementedError:
        return True


def is_dataset(source: Any) -> bool:
    """True for a tf.data.Dataset, without importing TensorFlow: where it is not imported, there is none."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and hasattr(tensorflow, "data") and isinstance(source, tensorflow.data.Dataset)


def _is_one_more_axis(value: Any, spec: TensorSpec) -> bool:
    return len(value.shape) == len(spec.shape) + 1


def _read_arrays(source: Any, inputs: Inputs, labels: LabelKey, outputs: int) -> Reader:
    arrays, label, weight, lengths = _by_name(source, inputs, labels, outputs, "The arrays")
    for spec in inputs:
        shape = arrays[spec.name].shape
        if not shape or (fits(spec, shape) and not fits(spec, shape[1:])):
            raise DataError(
                f"Array for input '{spec.name}': expected a batch axis and then {dims(spec)}, received one sample of "
                f"shape {shape}. Add the axis with array[None]."
            )
    count = _count(arrays, lengths, "The arrays")
    shapes = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
    block = Block(arrays, label, weight, count)
    return Reader(f"Arrays {shapes}", count, lambda: iter([block]), is_whole=True)


def _count(values: Mapping[str, np.ndarray], lengths: Iterable[tuple[str, int]], place: str) -> int:
    """The length of the batch axis of inputs, labels and weights, which must agree."""
    counts = {name: len(value) for name, value in values.items()}
    for name, length in lengths:
        same_count({**counts, name: length}, place)
    return same_count(counts, place)


def _by_name(element: Any, inputs: Inputs, labels: LabelKey, outputs: int, place: str) -> tuple:
    """Takes x, (x, y) or (x, y, weights) apart: `({input: array}, label, weight, [("labels" or "weights", length)])`.

    x is an array, a dict or a list. Labels that are not asked for are only counted.
    """
    x, y, weight = element, None, None
    if isinstance(element, tuple):
        if not 1 <= len(element) <= 3:
            raise DataError(
                f"{place}: expected (x,), (x, y) or (x, y, weights), where several inputs are a list or a dict in x, "
                f"received {len(element)} parts. Regroup."
            )
        x, y, weight = (*element, None, None)[:3]
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
        pair = isinstance(element, tuple) and len(element) > 1
        raise DataError(
            f"{place}: expected a value for each of the inputs {names}, received {received}"
            f"{' as x of a tuple, which is read as (x, y)' if pair else ''}. Give a dict by these names, or a list in "
            "this order."
        )
    values = {name: numbers(value, f"{place}, input '{name}'") for name, value in values.items()}
    if isinstance(y, list) and len(y) == outputs > 1:
        y = tuple(y)
    lengths: list[tuple[str, int]] = []
    map_leaves(lambda leaf: lengths.append(("labels", _length(leaf))), y)
    map_leaves(lambda leaf: lengths.append(("weights", _length(leaf))), weight)
    weight = map_leaves(lambda leaf: numbers(leaf, f"{place}, weights"), weight)
    return values, map_leaves(lambda leaf: numbers(leaf, f"{place}, labels"), y) if labels else None, weight, lengths


def _length(leaf: Any) -> int:
    return len(leaf) if hasattr(leaf, "__len__") and np.ndim(leaf) else 1
