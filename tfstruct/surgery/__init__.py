"""Surgery on channels and layers: from a model to a new one. The names load on first use."""

import importlib

_HOME = {
    "Plan": "pruning.plan",
    "plan_channels": "pruning.channels",
    "apply": "pruning.channels",
    "recalibrate_batch_norm": "pruning.batch_norm",
    "shrink": "lossless.shrinking",
    "Shrunk": "lossless.shrinking",
    "widen": "grow.widening",
    "deepen": "grow.deepening",
    "analyze_bottlenecks": "grow.bottlenecks",
    "Bottlenecks": "grow.bottlenecks",
    "remove_redundant": "layers.redundant",
    "drop_blocks": "layers.block_dropping",
    "residual_blocks": "layers.residuals",
    "delete_layer": "layers.layer_edits",
    "delete_layers": "layers.layer_edits",
    "insert_layer": "layers.layer_edits",
    "replace_layer": "layers.layer_edits",
    "fold_batch_norm": "merge.folding",
    "merge_linear": "merge.merging",
    "merge_parallel": "merge.parallel",
    "fuse_activation": "merge.activations",
    "optimize_inference": "merge.inference",
    "factorize": "factor.low_rank",
    "share_layers": "share.sharing",
    "suggest_sharing": "share.sharing_suggestion",
    "SharingSuggestion": "share.sharing_suggestion",
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
