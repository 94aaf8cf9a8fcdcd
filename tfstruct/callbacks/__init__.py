"""What happens to a model while it trains, in `fit` or in a loop of one's own. The names load on first use.

- `compressor.py`: `Compressor`: attach, step, finish; the same in `fit`; `release`
- `saved_state.py`: compressors' states in Keras's files: written while attached, found by `load_model` for the next
  one
- `unprotected.py`: zeros and shared values that no attached compressor protects, in words
- `failed_fit.py`: `keras.Model.fit` watched: what callbacks have put on a model is taken off when it fails
- `finite.py`: whether weights are numbers still
- `constraints.py`: masks as constraints, which the optimizer applies within its step
- `portable.py`: callbacks that can be pickled and copied, without the model
- `moving_averages.py`: the optimizer's averages of weights, held to masks and shared values
- `gradients.py`: the mean gradient on a user's data
- `prune.py`, `sparsity_report.py`: `Prune`: elements, blocks, rows, filters, N:M; what it did
- `weight_scores.py`: what single weights are worth, by criterion
- `prune_channels.py`, `channel_report.py`: `PruneChannels`: channels to zero until a budget is met; what it did
- `channel_masks.py`, `channel_factors.py`: groups that `shrink` can cut, and masks on all their weights; how channels
  get to zero
- `quantize_aware.py`: `QuantizeAware`: `model.call` routed through the twin
- `cluster.py`, `cluster_report.py`: `Cluster`: weights that share few values; what it did
- `sharing.py`: which weights of kernels share values: by value, hash or product quantization
- `tied_weights.py`: groups of weights held together: gradients summed, values united by a constraint
- `model_call.py`: what stands in for `model.call` while compressors are attached
- `learning_rate_finder.py`, `range_test.py`: the range test inside `fit`; what it found
- `adaptive_batch_size.py`: when the batch changes
- `diagnose.py`, `probe.py`, `first_batch.py`: when to look at a run; a kept batch run forward and backward; the batch
  that is kept
- `baselines.py`, `symptoms.py`, `root_causes.py`, `diagnosis.py`: what figures are compared with; figures of a run to
  findings, one function a symptom; which come first; as text, table, picture
"""

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
