"""JSON of files from elsewhere: its size is checked before it becomes objects, and it fails in one way."""

import json
import os
from collections.abc import Callable
from typing import Any

from tfstruct.errors import ArgumentError, ArgumentTypeError, TfstructError
from tfstruct.untrusted.bounded import read_bytes

LARGEST = 16 << 20  # bytes of text
# A list takes 3 bytes of text and 56 of memory; the descriptions of the largest models hold some ten thousand.
_MOST_LISTS = 500_000


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: no JSON, no text, or more than any description holds; in one line.
    """
    if not isinstance(text, str | bytes):
        raise ValueError("it is no text")
    if len(text) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes, as no description does")
    lists = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if lists > _MOST_LISTS:
        raise ValueError(f"it holds more than {_MOST_LISTS:,} lists and objects, as no description does")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep for any description") from None


def read_file(
    path: str | os.PathLike,
    build: Callable[[Any], Any],
    error: type[TfstructError],
    what: str = "",
    kind: type[dict] | type[list] = dict,
) -> Any:
    """`read` of a file, which every error names.

    Args:
        build, error, kind: see `read`.
        what: follows the path in messages: "is not a plan, which".

    Raises:
        error: there is no such file, it cannot be read, or as `read`.
    """
    name, text = os.fspath(path), read_bytes(path, LARGEST, error)
    try:
        return read(text, build, error, f"{name} {what}".rstrip(), kind)
    except TfstructError as reason:
        if name in str(reason):
            raise
        raise error(f"{name}: {reason}") from reason


def read(
    text: str | bytes,
    build: Callable[[Any], Any],
    error: type[TfstructError],
    what: str,
    kind: type[dict] | type[list] = dict,
) -> Any:
    """`build(object)` of a JSON text; whatever values of another kind raise in it becomes one documented error.

    Args:
        build: makes the result of a dict; its own `TfstructError` comes through, but for wrong arguments.
        error: what is raised.
        what: begins its message: "A recipe", or the path of a file.
        kind: what the text holds, an object or a list.
    """
    try:
        data = parse(text)
    except ValueError as reason:
        raise error(f"{what} must be JSON. Received text that is not: {reason}.") from None
    if not isinstance(data, kind):
        name = "object" if kind is dict else "list"
        raise error(f"{what} must be a JSON {name}. Received: {type(data).__name__}.")
    try:
        return build(data)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as reason:
        if isinstance(reason, TfstructError) and not isinstance(reason, (ArgumentError, ArgumentTypeError)):
            raise
        said = f"{type(reason).__name__}: {' '.join(str(reason).split())[:200]}"
        raise error(f"{what} must hold values of the documented kinds. Received others ({said}).") from reason
