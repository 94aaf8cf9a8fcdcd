"""Packages whose names load on first use."""

import importlib
import sys
from collections.abc import Callable, Mapping


def names(
    package: str, home: Mapping[str, str | None], registered: bool = False
) -> tuple[Callable, Callable, list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package that imports its modules when a name is first asked for.

    No module may be called as a name in it: importing the module would put it in that name's place.

    Args:
        package: its `__name__`.
        home: name -> the module in the package that has it; None where the name is a module of the package itself.
        registered: the package has classes that Keras writes into files: all modules are imported at once, as Keras
            reads only classes that have been.
    """

    def load(name: str):
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if home[name] is None:
            return importlib.import_module(f"{package}.{name}")
        value = getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    for module in {home[name] or name for name in home} if registered else ():
        importlib.import_module(f"{package}.{module}")
    return load, lambda: sorted(home), list(home)
