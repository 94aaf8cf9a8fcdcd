"""Checks of what optimizers are given."""

import numbers

from tfstruct.errors import ArgumentError


def checked_rate(value):
    """A learning rate as Keras takes it: a number that is not negative as a float; a schedule or function as it is."""
    if isinstance(value, numbers.Real):
        if not 0 <= float(value) < float("inf"):
            raise ArgumentError(f"`learning_rate` must be 0 or larger, and finite. Received: {value}.")
        return float(value)
    return value


def checked_beta(name: str, value) -> float:
    """A decay rate in [0, 1): at 1 an average would never move."""
    if not isinstance(value, numbers.Real) or not 0 <= float(value) < 1:
        raise ArgumentError(f"`{name}` must be a number in [0, 1). Received: {value!r}.")
    return float(value)


def checked_positive(name: str, value, zero: bool = False) -> float:
    """A finite number above 0, or with `zero` one that is not negative."""
    right = isinstance(value, numbers.Real) and 0 <= float(value) < float("inf") and (zero or float(value) > 0)
    if not right:
        least = "0 or larger" if zero else "above 0"
        raise ArgumentError(f"`{name}` must be a finite number, {least}. Received: {value!r}.")
    return float(value)


def checked_count(name: str, value, least: int = 1) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ArgumentError(f"`{name}` must be an integer, {least} or larger. Received: {value!r}.")
    return int(value)
