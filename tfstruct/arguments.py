"""Arguments of public calls, checked: an error names the argument, says what it may be, and what was received."""

import contextlib
import functools
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tfstruct.errors import ArgumentError

_Call = typing.TypeVar("_Call", bound=Callable)
_SEVERAL = {"a whole number": "whole numbers", "a number": "numbers", "a text": "texts", "a list": "lists"}


@contextlib.contextmanager
def named_as(**given: str) -> Iterator[None]:
    """While it is open, errors name arguments as a user gave them: by own name, the one that was given."""
    try:
        yield
    except ArgumentError as error:
        message = str(error)
        for own, name in given.items():
            message = message.replace(f"`{own}`", f"`{name}`")
        if message == str(error):
            raise
        raise type(error)(message) from error


def is_number(value: Any) -> bool:
    """Whether something is a real number that a float can hold; truth values and NaN are none."""
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value)
    except OverflowError:
        return False


def is_count(value: Any, least: int = 1) -> bool:
    """Whether something is a whole number of at least `least` and at most 63 bits; truth values are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and least <= int(value) < 1 << 63


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


def checked(call: _Call) -> _Call:
    """Decorator of a public function or class: arguments with a plain annotation are of that type when it is called.

    Plain are truth values, numbers, texts, paths, functions, None, dicts, tuples and lists of these, and unions; what
    has another annotation is left to the call itself.

    Raises:
        ArgumentError: from the call: an argument of another type; it says which, and what it may be.
    """
    return checked_but()(call)


def checked_but(*names: str) -> Callable[[_Call], _Call]:
    """As `checked`, without the arguments of these names, of which the call itself says more."""
    return functools.partial(_checked, names)


def _checked(names: tuple[str, ...], call: _Call) -> _Call:
    if isinstance(call, type):
        call.__init__ = _checked(names, call.__init__)  # type: ignore[misc]
        return call
    try:
        signature = inspect.signature(call, eval_str=True)
    except NameError:  # of something that is defined later
        signature = inspect.signature(call)

    @functools.wraps(call)
    def with_checks(*args, **kwargs):
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return call(*args, **kwargs)  # Python says what is missing
        for name, value in given.items():
            kind = signature.parameters[name]
            if name in names or kind.kind in (kind.VAR_POSITIONAL, kind.VAR_KEYWORD) or value is kind.default:
                continue
            what = _not_of(value, kind.annotation)
            if what is not None:
                raise ArgumentError(f"`{name}` must be {what}. Received: {_shown(value)}.")
        return call(*args, **kwargs)

    return with_checks  # type: ignore[return-value]


def _shown(value) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _not_of(value: Any, annotation) -> str | None:
    """What the annotation stands for, in words, where the value is no such thing; None where it is or may be."""
    kinds = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    words = []
    for kind in kinds:
        found = _kind(kind)
        if found is None or found[0](value):
            return None
        words.append(found[1])
    words = list(dict.fromkeys(words))
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _is_union(annotation) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _kind(annotation) -> tuple[Callable[[Any], bool], str] | None:
    """A test and words for one plain annotation; None for others."""
    origin, inside = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin is typing.Literal:
        known = [(type(one), one) for one in inside]
        return lambda value: (type(value), value) in known, ", ".join(map(repr, inside))
    simple = {
        bool: (_is_truth, "True or False"),
        int: (lambda value: is_count(value, -(1 << 63)), "a whole number"),
        float: (is_number, "a number"),
        str: (lambda value: isinstance(value, str), "a text"),
        None: (lambda value: value is None, "None"),
        types.NoneType: (lambda value: value is None, "None"),
        os.PathLike: (lambda value: isinstance(value, os.PathLike), "a path"),
        Callable: (callable, "a function"),
    }
    if origin in simple:
        return simple[origin]
    if origin in (Mapping, dict):

        def is_table(value) -> bool:
            if not isinstance(value, Mapping):
                return False
            kinds = inside or (Any, Any)
            return all(_not_of(k, kinds[0]) is None and _not_of(v, kinds[1]) is None for k, v in value.items())

        values = _kind(inside[1]) if inside else None
        of = None if values is None else _SEVERAL.get(values[1])
        return is_table, "a dict" if of is None else f"a dict of {of}"
    if inside and (origin in (Sequence, Collection, Iterable, list) or (origin is tuple and inside[1:] == (...,))):
        inner = inside[0]

        def is_list(value) -> bool:
            if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
                return False
            if inner is str and hasattr(value, "tolist"):  # lists of names are asked whether they are empty
                return False
            known = value.tolist() if hasattr(value, "tolist") else value  # an iterator is not used up
            return not isinstance(known, Sequence) or all(_not_of(one, inner) is None for one in known)

        plain = _kind(inner)
        of = None if plain is None else _SEVERAL.get(plain[1])
        return is_list, "a list" if of is None else f"a list of {of}"
    if origin is tuple and inside:

        def is_tuple(value) -> bool:
            right = isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) == len(inside)
            return right and all(_not_of(one, kind) is None for one, kind in zip(value, inside, strict=True))

        return is_tuple, f"{len(inside)} values"
    return None


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or (type(value).__name__ in ("bool", "bool_") and type(value).__module__ == "numpy")


def _interval(least, above, most, below) -> str:
    if most is None and below is None:
        if least is None and above is None:
            return "a finite number"
        return f"a finite number, {least:g} or larger" if above is None else f"a finite number above {above:g}"
    low = f"[{least:g}" if least is not None else f"({-math.inf if above is None else above:g}"
    return f"a number in {low}, {f'{most:g}]' if most is not None else f'{below:g})'}"
