"""Checks of the numbers that the layers of this room take."""

import numbers

from tfstruct.errors import ArgumentError


def checked(value, name: str = "rate", *, one: bool = False, least: float = 0.0) -> float:
    """A share in [0, 1), or in [0, 1] with `one`.

    Raises:
        ArgumentError: it is not.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not (least <= value < 1 or (one and value == 1)):
        raise ArgumentError(f"`{name}` must be a number in [{least:g}, 1{']' if one else ')'}. Received: {value!r}.")
    return float(value)


def positive(value, name: str, *, zero: bool = False) -> float:
    """A finite number above 0, or 0 with `zero`.

    Raises:
        ArgumentError: it is not.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not (0 < value < float("inf") or (zero and value == 0)):
        raise ArgumentError(f"`{name}` must be a finite number, {'0 or ' if zero else 'above 0'}"
                         f"{'larger' if zero else ''}. Received: {value!r}.")  # fmt: skip
    return float(value)


def whole(value, name: str) -> int:
    """A whole number of at least 1.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ArgumentError(f"`{name}` must be a whole number, 1 or larger. Received: {value!r}.")
    return int(value)
