"""Surgery: plans of which channels stay, and the smaller models they make. The names load on first use."""

import importlib

_HOME = {
    "Plan": "plan",
    "plan_channels": "channels",
    "apply": "channels",
    "recalibrate_batch_norm": "batch_norm",
    "shrink": "shrinking",
    "Shrunk": "shrinking",
    "widen": "widening",
    "deepen": "deepening",
    "analyze_bottlenecks": "bottlenecks",
    "Bottlenecks": "bottlenecks",
    "remove_redundant": "redundant",
    "drop_blocks": "block_dropping",
    "residual_blocks": "residuals",
    "delete_layer": "layer_edits",
    "delete_layers": "layer_edits",
    "insert_layer": "layer_edits",
    "replace_layer": "layer_edits",
    "fold_batch_norm": "folding",
    "merge_linear": "merging",
    "merge_parallel": "parallel",
    "fuse_activation": "activations",
    "optimize_inference": "inference",
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
