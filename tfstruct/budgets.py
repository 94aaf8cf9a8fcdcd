"""Budgets as users write them, read in one place: `"macs=50%,tflite_bytes=56000"` or `{"macs": 0.5}`."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from tfstruct.errors import BudgetError

# An absolute figure of at most 100 that is less than this share of the whole is a percentage without its sign.
_FORGOTTEN = 1e-3


def entries(given: Mapping | str, known: Iterable[str]) -> dict[str, object]:
    """Name -> value of a budget in a mapping, or in a text: `name=value` or `name=percent%`, separated by commas.

    Raises:
        BudgetError: neither of them, or names that are not in `known`, or twice the same.
    """
    known = tuple(known)
    if isinstance(given, str):
        given = _split(given)
    if not isinstance(given, Mapping) or not given:
        raise BudgetError(
            f"A budget is a dict over {', '.join(known)}, or a text such as '{known[0]}=50%'. Received: {given!r}."
        )
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise BudgetError(f"`budget` knows {', '.join(known)}. Received: {', '.join(unknown)}.")
    return dict(given)


def number(name: str, value) -> float:
    """A number, or a text of one; a percentage is divided by 100.

    Raises:
        BudgetError: neither of them, not finite, or a percentage above 100, which would be an absolute figure.
    """
    percent = isinstance(value, str) and value.strip().endswith("%")
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number, str)):
            raise ValueError
        found = float(value.strip().removesuffix("%")) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError):
        raise BudgetError(f"`{name}` in the budget must be a number or a percentage. Received: {value!r}.") from None
    if not math.isfinite(found) or (percent and found > 100):
        raise BudgetError(f"`{name}` in the budget must be finite, a percentage at most 100%. Received: {value!r}.")
    return found / 100 if percent else found


def figure(name: str, value) -> float:
    """A limit above 0: up to 1 the share that may stay, above 1 an absolute figure.

    Raises:
        BudgetError: it is none.
    """
    found = number(name, value)
    if found <= 0:
        raise BudgetError(
            f"`{name}` in the budget must be above 0: up to 1 the share that may stay, above 1 an absolute figure. "
            f"Received: {value!r}."
        )
    return found


def figures(given: Mapping | str, known: Iterable[str]) -> dict[str, float]:
    """All of a budget as limits; see `entries` and `figure`."""
    return {name: figure(name, value) for name, value in entries(given, known).items()}


def absolute(name: str, limit: float, whole: float) -> float:
    """A limit of `figure` in absolute terms, for a model of which the whole is given.

    Raises:
        BudgetError: a percentage without its sign: 50 of a model of millions.
    """
    if limit <= 1:
        return limit * whole
    if limit <= 100 and limit < _FORGOTTEN * whole:
        raise BudgetError(
            f"`{name}` of {limit:g} is an absolute figure, and the whole has {whole:,.0f}. For a percentage write "
            f'{limit / 100:g}, or "{name}={limit:g}%".'
        )
    return limit


def _split(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise BudgetError(
                f"A budget is written name=value, separated by commas, such as macs=50%,params=0.4. Received: {part!r}."
            )
        if name in found:
            raise BudgetError(f"The budget names `{name}` twice.")
        found[name] = value
    return found
