"""Dropout layers and wrappers, and what becomes of them in inference."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "ConcreteDropout": "concrete_dropout",
        "Distribution": "monte_carlo",
        "DropBlock1D": "drop_block",
        "DropBlock2D": "drop_block",
        "DropConnect": "drop_connect",
        "HardConcrete": "hard_concrete",
        "MonteCarloDropout": "monte_carlo",
        "ScheduledDropout": "scheduled_dropout",
        "StochasticDepth": "stochastic_depth",
        "TargetedDropout": "targeted_dropout",
        "VariationalDropout": "variational_dropout",
        "finalize": "finalizing",
        "predict_distribution": "monte_carlo",
    },
    registered=True,
)
