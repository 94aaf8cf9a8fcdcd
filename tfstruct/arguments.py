"""Arguments of public calls, checked: an error names the argument, says what it may be, and what was received."""

import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tfstruct.errors import ArgumentError


def is_number(value: Any) -> bool:
    """Whether something is a real number; truth values and NaN are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether something is a whole number of at least `least`; truth values are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least


def require_number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    error: type[Exception] = ArgumentError,
) -> float:
    """The finite number within these bounds that was given.

    Args:
        name: of the argument.
        least, most: bounds that it may be equal to.
        above, below: bounds that it may not be equal to.
        error: what is raised.

    Raises:
        ArgumentError: it is none.
    """
    right = (
        is_number(value)
        and math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if not right:
        raise error(f"`{name}` must be {_interval(least, above, most, below)}. Received: {value!r}.")
    return float(value)


def require_count(
    name: str, value: Any, least: int = 1, most: int | None = None, *, error: type[Exception] = ArgumentError
) -> int:
    """The whole number from `least` to `most` that was given.

    Raises:
        ArgumentError: it is none.
    """
    if not is_count(value, least) or (most is not None and value > most):
        bounds = f", {least} or larger" if most is None else f" from {least} to {most}"
        raise error(f"`{name}` must be a whole number{bounds}. Received: {value!r}.")
    return int(value)


def require_one_of(name: str, value: Any, allowed: Collection, *, error: type[Exception] = ArgumentError) -> Any:
    """The value, which is one of those that are allowed.

    Raises:
        ArgumentError: it is not.
    """
    if not any(type(one) is type(value) and one == value for one in allowed):
        raise error(f"`{name}` must be one of {', '.join(map(str, allowed))}. Received: {value!r}.")
    return value


def require_texts(name: str, value: Any, *, error: type[Exception] = ArgumentError) -> tuple[str, ...]:
    """One text, or several, as a tuple.

    Raises:
        ArgumentError: it is something else.
    """
    texts = (value,) if isinstance(value, str) else value
    if (
        not isinstance(texts, Collection)
        or isinstance(texts, Mapping)
        or not all(isinstance(one, str) for one in texts)
    ):
        raise error(f"`{name}` must be a text or a list of texts. Received: {value!r}.")
    return tuple(texts)


def require_range(name: str, value: Any, *, error: type[Exception] = ArgumentError) -> tuple[float, float]:
    """Two numbers, the lower one first.

    Raises:
        ArgumentError: it is something else.
    """
    pair = isinstance(value, Sequence) and len(value) == 2 and all(map(is_number, value))
    if not pair or not value[0] < value[1]:
        raise error(f"`{name}` must be (low, high). Received: {value!r}.")
    return value[0], value[1]


def _interval(least, above, most, below) -> str:
    if most is None and below is None:
        if least is None and above is None:
            return "a finite number"
        return f"a finite number, {least:g} or larger" if above is None else f"a finite number above {above:g}"
    low = f"[{least:g}" if least is not None else f"({-math.inf if above is None else above:g}"
    return f"a number in {low}, {f'{most:g}]' if most is not None else f'{below:g})'}"
