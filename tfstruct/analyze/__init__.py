"""Numbers about a model: what costs what, which channels go together, and which matter.

The names here load on first use: `import tfstruct.analyze` costs nothing.

No file is called after a public function: importing it would put the module in its place.

- `counts.py`: sums of products of channel counts, for any choice of units at once
- `memory.py`: which activations are alive when, and how many bytes that is
- `tflite_size.py`: an upper bound of the int8 file's size, from the graph
- `traced_work.py`: the work inside of a call that no rule knows, counted on what it traces to
- `costs.py`: `Costs`: MACs, parameters, file size and peak memory of what stays
- `layer_profile.py`: `profile`: the costs by operation
- `names.py`: groups by unique names
- `drawing.py`, `group_report.py`: `explain`: groups and why they are frozen, as table and picture
- `losses.py`: losses of a model on labelled samples
- `weight_criteria.py`, `data_criteria.py`: importance by weights alone; by running data through the model
- `scores.py`: `unit_scores`, `importance`: members reduced to units, normalized by group
- `masking.py`: channels at zero for as long as a `with` lasts
- `inference.py`: models run on data: states and seeds left as they were, in batches that they take
- `evaluation.py`: a model's outputs on samples; loss, accuracy or a user's metric of them
- `cross_validation.py`: `choose_threshold`: how unimportant a channel has to be to go, by k-fold cross-validation
- `gradient_noise.py`: `gradient_noise_scale`: tr(Sigma) / |G|^2
- `sweep.py`: `sensitivity`: masks group by group, resumable
"""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Costs": "costs",
        "Profile": "layer_profile",
        "profile": "layer_profile",
        "GradientNoise": "gradient_noise",
        "gradient_noise_scale": "gradient_noise",
        "GroupReport": "group_report",
        "explain": "group_report",
        "Importance": "scores",
        "importance": "scores",
        "unit_scores": "scores",
        "Sensitivity": "sweep",
        "sensitivity": "sweep",
        "ThresholdChoice": "cross_validation",
        "choose_threshold": "cross_validation",
    },
)
