"""Surgery on channels and layers: from a model to a new one. The names load on first use.

- `edit_report.py`: `EditReport`: what an edit of layers changed
- `compiling.py`: new models compiled as those they are made of
- `certificate.py`: how far two models are apart on random inputs
- `pruning/plan.py`: `Plan`: which channels stay, as plain data; checked against a graph
- `pruning/removals.py`: how much has to go: removals of a few channels each in one order, and the first point that
  meets a budget
- `pruning/exact_widths.py`: which channels go so that layers get exactly the widths that are asked for
- `pruning/planner.py`: `Planner`: a budget met on one graph, asked again as weights change
- `pruning/channels.py`: `plan_channels` (by budget or threshold), `apply`
- `pruning/compiled.py`: loss, metrics and optimizer on the smaller model, slots cut
- `pruning/batch_norm.py`: `recalibrate_batch_norm`
- `lossless/shrinking.py`: `shrink`: removes what has no effect, folds constants, and says what it did
- `lossless/constants.py`: constants carried forward: which channels of which tensors do not depend on the input
- `lossless/products.py`: constants through products with weights of opened layers
- `lossless/removable.py`: the largest set of units that no reader misses
- `lossless/branches.py`: inputs of joins that add nothing
- `layers/opening.py`: `open_layers`: `graph.opening` for users, with its report
- `layers/closing.py`: `close_layers`: opened layers as layers of the user's class again
- `layers/id_flow.py`: where ids come from, and in which tables they are looked up
- `layers/vocabulary.py`: `prune_vocabulary`: rows of embeddings that no data uses
- `layers/places.py`: which layers a user means: by path, object or predicate, with every call of them
- `layers/fitting.py`: does a new layer fit into a place, tried on a copy
- `layers/layer_edits.py`: `delete_layer`, `delete_layers`, `insert_layer`, `replace_layer`
- `layers/redundant.py`: `remove_redundant`: layers that do nothing in inference, to a fixpoint
- `layers/value_ranges.py`: between which values tensors lie, whatever comes in
- `layers/residuals.py`: `residual_blocks`: joins of a shortcut and a branch
- `layers/block_dropping.py`: `drop_blocks`: the least important of them without their branch
- `layers/early_downsampling.py`: `downsample_early`: strides moved to an earlier convolution
- `merge/passes.py`: edits in passes until nothing changes
- `merge/folding.py`: `fold_batch_norm`
- `merge/merging.py`: `merge_linear`: two layers in a row as one
- `merge/parallel.py`: `merge_parallel`: branches that join in an Add as one convolution
- `merge/activations.py`: `fuse_activation`: activation layers as arguments of the layer before them
- `merge/adapters.py`: `merge_lora`
- `merge/inference.py`: `optimize_inference`: all exact edits until none is left
- `factor/factors.py`: kernels as products of smaller ones, in NumPy: what all ways have in common
- `factor/singular_values.py`, `factor/tucker.py`, `factor/canonical.py`, `factor/methods.py`: the ways (SVD, spatial
  and depthwise; Tucker; CP), and those by name
- `factor/factor_layers.py`: the layers that stand for a factorized one, and their MACs
- `factor/targets.py`: the layers that can be factorized, and the forms that they may have
- `factor/rank_budget.py`: ranks that meet a budget with the least error for each MAC saved
- `factor/low_rank.py`: `factorize`
- `share/shareable.py`: layers and nested models of a graph that could be one: equal type, configuration and shapes
- `share/sharing.py`: `share_layers`
- `share/sharing_suggestion.py`: `suggest_sharing`: by cosine of weights, or CKA of what the layers read
- `grow/widening.py`: `widen`: copies of channels, what reads them divided by their number
- `grow/deepening.py`: `deepen`: a new layer that is the identity at first
- `grow/bottlenecks.py`: `analyze_bottlenecks`: layers too wide, too narrow or without effect
- `grow/observed.py`: a model looked at while it runs: activations, their ranks, outputs without a layer
- `grow/remedies.py`: the edits that findings recommend: a group cut down, layers deleted, outputs reused
"""

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
        "open_layers": "layers.opening",
        "OpeningReport": "layers.opening",
        "close_layers": "layers.closing",
        "ClosingReport": "layers.closing",
        "prune_vocabulary": "layers.vocabulary",
        "VocabularyReport": "layers.vocabulary",
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
    registered=True,
)
