"""Numbers about a model: what costs what, which channels go together, and which matter.

The names here load on first use: `import tfstruct.analyze` costs nothing.
"""

import importlib

_HOME = {
    "Costs": "costs",
    "Profile": "layer_profile",
    "profile": "layer_profile",
    "GroupReport": "group_report",
    "explain": "group_report",
    "Importance": "scores",
    "importance": "scores",
    "unit_scores": "scores",
    "Sensitivity": "sweep",
    "sensitivity": "sweep",
}

__all__ = [*_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # No file has the name of a function: importing it would put the module in the function's place.
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
