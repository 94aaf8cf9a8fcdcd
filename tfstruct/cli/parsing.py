"""`Parser`: help with defaults and examples, and errors that say what was meant."""

import argparse
import difflib

from tfstruct.errors import RecipeError


class Parser(argparse.ArgumentParser):
    """Raises a `RecipeError` for arguments that cannot be read; its help shows defaults, and its epilog as it is."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"formatter_class": _Help, **kwargs})

    def error(self, message: str):
        raise RecipeError(f"{message}{self._near(message)} (see {self.prog} --help)")

    def arguments(self) -> list[argparse.Action]:
        """All of them, in order."""
        return list(self._actions)

    def command(self, name: str) -> "Parser":
        """The parser of a command."""
        return next(action.choices[name] for action in self._actions if isinstance(action.choices, dict))

    def _near(self, message: str) -> str:
        """The option that an unknown one looks like."""
        what, _, given = message.partition("unrecognized arguments: ")
        flag = given.split("=")[0].split(" ")[0]
        if what or not flag.startswith("-"):
            return ""
        known = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(flag, known, 1)
        return f". Did you mean {near[0]}?" if near else ""


class Repeated(argparse.Action):
    """An option that may be given several times. Those of the command line replace a default, such as one of a file."""

    def __call__(self, parser, namespace, values, option_string=None):
        found = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [values] if found is self.default else [*found, values])


class Joined(argparse.Action):
    """An option whose values, if it is given several times, are one list with commas."""

    def __call__(self, parser, namespace, values, option_string=None):
        found = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if found is self.default else f"{found},{values}")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that shows the default of every argument that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        said = action.help or ""
        if (
            action.default is None
            or action.default is False
            or action.default in ([], argparse.SUPPRESS)
            or "default:" in said
        ):
            return said
        return f"{said}; default: %(default)s" if said else "default: %(default)s"
