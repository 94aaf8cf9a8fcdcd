"""From the step to a value: ratios of sparsity, and learning rates."""

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
        "ExponentialDecay": "learning_rates",
        "CosineDecay": "learning_rates",
        "CosineDecayRestarts": "learning_rates",
        "PiecewiseConstantDecay": "learning_rates",
        "PolynomialDecay": "learning_rates",
        "InverseTimeDecay": "learning_rates",
        "StepDecay": "learning_rates",
        "LinearDecay": "learning_rates",
        "WarmupStableDecay": "learning_rates",
        "OneCycle": "cycles",
        "Cyclical": "cycles",
        "Warmup": "composed",
        "Sequence": "composed",
        "plot": "plotting",
    },
    registered=True,
)
