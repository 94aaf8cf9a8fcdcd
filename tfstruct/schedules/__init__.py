"""From the step to a value: ratios of sparsity, and learning rates. The names load on first use."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "RatioSchedule": "ratios",
        "ConstantRatio": "ratios",
        "OneShot": "ratios",
        "PolynomialRatio": "ratios",
        "CosineRatio": "ratios",
        "Iterative": "ratios",
        "AutomaticRatio": "ratios",
    },
)
