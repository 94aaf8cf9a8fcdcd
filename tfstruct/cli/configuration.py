"""Options in a file: `--config FILE.toml` reads them, `--save-config FILE.toml` writes those of this call."""

import argparse
import difflib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from tfstruct.cli.parsing import Parser
from tfstruct.errors import RecipeError
from tfstruct.files import write_atomic
from tfstruct.untrusted import toml_text

# What is no option of a command's work.
_NOT_KEPT = ("help", "config", "save_config", "command", "overwrite", "verbose", "quiet")


def add_configuration(group) -> None:
    """The two options."""
    group.add_argument("--config", metavar="FILE.toml", help="take options from here; those given beside it go first")
    group.add_argument("--save-config", metavar="FILE.toml", help="write the options of this call, then carry it out")


def read(path: str, command: str) -> dict[str, Any]:
    """Option -> value: of the table that is called like the command, or else of the file itself.

    Raises:
        RecipeError: no TOML file that can be read, or one without anything for the command.
    """
    data = toml_text.read(path, "--config: ")
    found = data.get(command, {key: value for key, value in data.items() if not isinstance(value, Mapping)})
    if not isinstance(found, Mapping) or not (found or not data):
        raise RecipeError(f"--config: {path} has no options for {command!r}. It has tables for {', '.join(data)}.")
    return dict(found)


def set_defaults(parser: Parser, values: Mapping[str, Any], path: str) -> None:
    """Makes the values of a file the defaults of a command's options.

    Raises:
        RecipeError: an option that the command does not have, or a value that it does not take.
    """
    actions = {action.dest: action for action in parser.arguments() if action.dest not in _NOT_KEPT}
    by_name = {name.replace("_", "-"): action for dest, action in actions.items() for name in _names(dest, action)}
    for name, value in values.items():
        action = by_name.get(name.replace("_", "-"))
        if action is None:
            near = difflib.get_close_matches(name, by_name, 1)
            hint = f" Did you mean {near[0]}?" if near else f" It knows {', '.join(sorted(by_name))}."
            raise RecipeError(f"--config: {path} sets {name!r}, which {parser.prog} does not have.{hint}")
        action.default = _value(action, name, value, path)
        action.required = False
        if not action.option_strings:
            action.nargs = "?"


def write(path: str, command: str, parser: Parser, options: argparse.Namespace) -> None:
    """Writes the options of a call that differ from their defaults, `options.given`.

    Raises:
        RecipeError: the name is none of a TOML file.
    """
    if pathlib.Path(path).suffix != ".toml":
        raise RecipeError(f"--save-config expects a name that ends in .toml. Received: {path!r}.")
    lines = [f"[{command}]"]
    for action in parser.arguments():
        value = getattr(options, action.dest, None)
        if action.dest not in _NOT_KEPT and action.dest in options.given:
            lines.append(f"{_names(action.dest, action)[0]} = {json.dumps(value, ensure_ascii=False)}")
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _names(dest: str, action: argparse.Action) -> list[str]:
    """The long option, as in a file, and the name that it has in Python."""
    longest = max(action.option_strings, key=len, default=dest)
    return list(dict.fromkeys((longest.lstrip("-"), dest)))


def _value(action: argparse.Action, name: str, value: Any, path: str) -> Any:
    """A value of a file as the command line would have it."""
    if isinstance(action.default, bool):
        if not isinstance(value, bool):
            raise RecipeError(f"--config: {name} in {path} must be true or false. Received: {value!r}.")
        return value
    if isinstance(action.default, list):
        if isinstance(value, Mapping):
            return _pairs(value, name, path)
        return [_text(one, name, path) for one in (value if isinstance(value, list) else [value])]
    text = _text(value, name, path)
    try:
        made = action.type(text) if callable(action.type) else text
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise RecipeError(f"--config: {name} in {path}: {error}.") from None
    if action.choices is not None and made not in action.choices:
        known = ", ".join(map(str, action.choices))
        raise RecipeError(f"--config: {name} in {path} must be one of {known}. Received: {value!r}.")
    return made


def _text(value: Any, name: str, path: str) -> str:
    """As it would stand on the command line: lists with commas, tables as name=value."""
    if isinstance(value, list):
        return ",".join(_text(one, name, path) for one in value)
    if isinstance(value, Mapping):
        return ",".join(_pairs(value, name, path))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RecipeError(f"--config: {name} in {path} cannot be {value!r}.")
    return str(value)


def _pairs(table: Mapping[str, Any], name: str, path: str) -> list[str]:
    return [f"{key}={_text(one, name, path)}" for key, one in table.items()]
