"""Surgery: plans of which channels stay, and the smaller models they make. The names load on first use."""

import importlib

_HOME = {
    "Plan": "plan",
    "plan_channels": "channels",
    "apply": "channels",
    "recalibrate_batch_norm": "batch_norm",
    "shrink": "shrinking",
    "Shrunk": "shrinking",
    "factorize": "low_rank",
    "share_layers": "sharing",
    "suggest_sharing": "sharing_suggestion",
    "SharingSuggestion": "sharing_suggestion",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
