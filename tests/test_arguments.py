"""`arguments.checked`: what has a plain annotation is of that type when a call begins."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytest

from tfstruct.arguments import checked
from tfstruct.errors import ArgumentError


class Model:
    pass


@checked
def call(
    model: Model,
    count: int = 1,
    rate: float | None = None,
    name: str | Sequence[str] = "",
    path: str | os.PathLike = "",
    always: bool = False,
    function: Callable[[int], int] | None = None,
    table: Mapping[str, int] | None = None,
    sizes: tuple[int, ...] = (),
    pair: tuple[str, int] | None = None,
    shown: Literal["auto", 0, 1] = "auto",
    other: Any = None,
    **more,
):
    """What it does."""
    return count


RIGHT = [
    {"count": 3}, {"count": np.int64(3)}, {"rate": 1}, {"rate": np.float32(1)}, {"rate": float("inf")}, {"rate": None},
    {"name": ["a", "b"]}, {"name": ()}, {"path": __import__("pathlib").Path("x")}, {"always": np.True_},
    {"function": len}, {"table": {}}, {"sizes": [1, 2]}, {"sizes": np.array([1])}, {"sizes": iter([1])},
    {"pair": ("a", 1)}, {"table": {"a": np.int8(1)}},
    {"shown": 1}, {"other": object()}, {"model": 3}, {"anything": object()},
]  # fmt: skip
WRONG = [
    ({"count": "3"}, "`count` must be a whole number. Received: '3'"),
    ({"count": 1.0}, "`count` must be a whole number"),
    ({"count": True}, "`count` must be a whole number"),
    ({"count": 10**400}, "`count` must be a whole number"),
    ({"rate": float("nan")}, "`rate` must be a number or None"),
    ({"rate": "fast"}, "`rate` must be a number or None"),
    ({"name": 3}, "`name` must be a text or a list"),
    ({"name": ["a", 3]}, "`name` must be a text or a list"),
    ({"path": b"x"}, "`path` must be a text or a path"),
    ({"always": 1}, "`always` must be True or False"),
    ({"function": 3}, "`function` must be a function or None"),
    ({"table": []}, "`table` must be a dict of whole numbers or None"),
    ({"table": {"a": None}}, "`table` must be a dict of whole numbers or None"),
    ({"table": {3: 1}}, "`table` must be a dict of whole numbers or None"),
    ({"pair": 3}, "`pair` must be 2 values or None"),
    ({"pair": ("a", "b")}, "`pair` must be 2 values or None"),
    ({"pair": ("a", 1, 2)}, "`pair` must be 2 values or None"),
    ({"sizes": "12"}, "`sizes` must be a list of whole numbers"),
    ({"sizes": [None]}, "`sizes` must be a list of whole numbers"),
    ({"shown": True}, "`shown` must be 'auto', 0, 1"),
    ({"shown": np.zeros(3)}, "`shown` must be"),
    ({"other": 1, "count": object()}, "`count` must be"),
]


def _named(value) -> str:
    """The same in every process that collects tests: without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.mark.parametrize("given", RIGHT, ids=_named)
def test_what_is_right_goes_through(given):
    call(**{"model": Model(), **given})


@pytest.mark.parametrize(("given", "says"), WRONG, ids=_named)
def test_what_is_wrong_is_named(given, says):
    with pytest.raises(ArgumentError) as caught:
        call(Model(), **given)
    assert says in str(caught.value) and len(str(caught.value)) < 300


def test_what_is_missing_is_said_by_python():
    with pytest.raises(TypeError, match="model"):
        call()
    assert call.__doc__ == "What it does." and call.__name__ == "call"
