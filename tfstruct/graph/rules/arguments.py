"""What an operation is given, and the constants among it."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfstruct.graph.call import Call, Channels, Kept


def axes_of(axis, rank: int) -> tuple[int, ...]:
    """An `axis` argument as positive axes; None stands for all of them."""
    if axis is None:
        return tuple(range(rank))
    return tuple(int(a) % rank for a in (axis if isinstance(axis, (list, tuple)) else (axis,)))


def given(call: Call) -> list[tuple[int | str, Any]]:
    """Every argument of the call, by position or name, tensors as `Channels`."""
    known = {id(x): c for x, c in zip(call.node.arguments.keras_tensors, call.inputs, strict=True)}
    arguments = call.node.arguments
    return [
        (key, keras.tree.map_structure(lambda x: known.get(id(x), x), value))
        for key, value in (*enumerate(arguments.args), *arguments.kwargs.items())
    ]


def key_of(call: Call, name: str, place: int) -> int | str:
    """By what `set_argument` reaches an argument: its position, or its name where it was given by name."""
    return name if name in call.node.arguments.kwargs else place


def array_of(value) -> np.ndarray | None:
    """A constant as an array; None if it is none."""
    if value is None or any(isinstance(x, (Channels, str)) or x is None for x in keras.tree.flatten(value)):
        return None
    try:
        array = np.asarray(value) if isinstance(value, (list, tuple)) else keras.ops.convert_to_numpy(value)
    except (TypeError, ValueError):
        return None
    return None if array.dtype == object else np.asarray(array)


def operands(
    call: Call, arguments: Iterable[tuple[int | str, object]]
) -> list[tuple[int | str, Channels, object]] | None:
    """(key, its channels, its array) of every tensor and constant; None where an argument is neither.

    The channels of a constant carry no labels yet: see `adopt`.
    """
    found: list[tuple[int | str, Channels, object]] = []
    for key, value in arguments:
        if value is None:
            continue
        if isinstance(value, Channels):
            found.append((key, value, None))
            continue
        array = array_of(value)
        if array is None:
            return None
        found.append((key, Channels(array.shape, (None,) * array.ndim, -1), value))
    return found


def adopt(call: Call, key: int | str, constant, axes) -> Channels:
    """Makes a constant argument follow the labels. A variable cannot be sliced, so it freezes them."""
    array = array_of(constant)
    assert array is not None  # `operands` has read it
    if any(labels is not None for labels in axes):
        if hasattr(constant, "assign"):
            for labels in axes:
                call.freeze(labels, f"{call.path} uses a variable that belongs to no layer of the model")
        else:
            call.set_argument(key, lambda kept: cut(array, axes, kept))
    return Channels(array.shape, tuple(axes), -1)


def cut(array: np.ndarray, axes, kept: Kept) -> np.ndarray:
    for i, labels in enumerate(axes):
        if labels is not None:
            array = np.take(array, kept(labels), axis=i)
    return array
