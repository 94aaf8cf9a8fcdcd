"""Numbers about a model: what costs what, which channels go together, and which matter.

The names here load on first use: `import tfstruct.analyze` costs nothing.
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
