"""TOML of files from elsewhere: bounds before it becomes objects, and one way to fail."""

import os
import re
import tomllib
from typing import Any

from tfstruct.errors import RecipeError, one_line
from tfstruct.untrusted.bounded import read_bytes

_LARGEST = 1 << 20  # bytes
# A key of n parts takes memory by n squared.
_MOST_PARTS = 32
# It gives nothing back, and begins where a part does: a text takes time by its length.
_DOTTED = re.compile(
    rf"""(?<![A-Za-z0-9_-])(?:(?:"[^"\n]*+"|'[^'\n]*+'|[A-Za-z0-9_-]++)[ \t]*+\.[ \t]*+){{{_MOST_PARTS}}}"""
)
_WIDEST = 1 << 63  # the integers of TOML


def read(path: str | os.PathLike, what: str = "") -> dict[str, Any]:
    """The tables of a TOML file.

    Args:
        what: begins the message before the path: "--config: ".

    Raises:
        RecipeError: no such file, none that can be read, no TOML, or more than any file of options holds.
    """
    name, content = os.fspath(path), read_bytes(path, _LARGEST, RecipeError, what)
    if len(content) > _LARGEST:
        raise RecipeError(f"{what}{name} has more than {_LARGEST:,} bytes. Expected a TOML file of some lines.")
    try:
        text = content.decode()
        if _DOTTED.search(text):
            raise ValueError(f"a key has more than {_MOST_PARTS} parts")
        tables = tomllib.loads(text.replace("\r\n", "\n"))
        _require_narrow(tables)
    except RecursionError:
        raise RecipeError(f"{what}{name} is no TOML file: it nests too deep.") from None
    except (ValueError, OverflowError) as error:  # TOMLDecodeError, UnicodeDecodeError, numbers of too many digits
        raise RecipeError(f"{what}{name} is no TOML file: {one_line(error)}.") from None
    return tables


def _require_narrow(tables: dict) -> None:
    """Refuses integers that TOML does not have; Python would read them, and fail where it writes them out."""
    todo: list[Any] = [tables]
    while todo:
        value = todo.pop()
        if isinstance(value, dict | list):
            todo.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, int) and not -_WIDEST <= value < _WIDEST:
            raise ValueError("an integer has more than 64 bits")
