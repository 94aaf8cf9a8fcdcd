"""Smaller models, proven equal to what they came from.

The names here load on first use: `import tfstruct.surgery` costs nothing.
"""

import importlib

_HOME = {
    "shrink": "shrinking",
    "Shrunk": "shrinking",
}

__all__ = [*_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
