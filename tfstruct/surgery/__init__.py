"""Surgery on channels and layers: from a model to a new one. The names load on first use."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Plan": "pruning.plan",
        "plan_channels": "pruning.channels",
        "apply": "pruning.channels",
        "recalibrate_batch_norm": "pruning.batch_norm",
        "shrink": "lossless.shrinking",
        "ShrinkReport": "lossless.shrinking",
        "EditReport": "edit_report",
        "widen": "grow.widening",
        "deepen": "grow.deepening",
        "analyze_bottlenecks": "grow.bottlenecks",
        "Bottlenecks": "grow.bottlenecks",
        "remove_redundant": "layers.redundant",
        "drop_blocks": "layers.block_dropping",
        "downsample_early": "layers.early_downsampling",
        "residual_blocks": "layers.residuals",
        "delete_layer": "layers.layer_edits",
        "delete_layers": "layers.layer_edits",
        "insert_layer": "layers.layer_edits",
        "replace_layer": "layers.layer_edits",
        "fold_batch_norm": "merge.folding",
        "merge_linear": "merge.merging",
        "merge_parallel": "merge.parallel",
        "merge_lora": "merge.adapters",
        "fuse_activation": "merge.activations",
        "optimize_inference": "merge.inference",
        "factorize": "factor.low_rank",
        "share_layers": "share.sharing",
        "suggest_sharing": "share.sharing_suggestion",
        "SharingSuggestion": "share.sharing_suggestion",
    },
)
