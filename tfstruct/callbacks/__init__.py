"""What happens to a model while it trains, in `fit` or in a loop of one's own. The names load on first use."""

from tfstruct import lazy
from tfstruct.callbacks import saved_state as _saved_state  # noqa: F401 - load_model keeps states from now on

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "ChannelReport": "channel_report",
        "Cluster": "cluster",
        "ClusterReport": "cluster_report",
        "Compressor": "compressor",
        "release": "compressor",
        "Prune": "prune",
        "QuantizeAware": "quantize_aware",
        "QuantizationReport": "quantize_aware",
        "PruneChannels": "prune_channels",
        "SparsityReport": "sparsity_report",
        "AdaptiveBatchSize": "adaptive_batch_size",
        "LearningRateFinder": "learning_rate_finder",
        "RangeTest": "range_test",
        "Diagnose": "diagnose",
        "Diagnosis": "diagnosis",
        "Finding": "diagnosis",
    },
)
