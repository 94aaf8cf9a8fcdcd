"""Optimizers: Keras `Optimizer` subclasses, for `model.compile` and `apply_gradients`."""

from tfstruct import lazy

_KERAS = (
    "SGD", "Adadelta", "Adafactor", "Adagrad", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion", "LossScaleOptimizer",
    "Muon", "Nadam", "Optimizer", "RMSprop",
)  # fmt: skip

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Momentum": "momentum",
        "Adam": "adam",
        "ProximalSGD": "proximal_sgd",
        "ProximalAdam": "proximal_adam",
        "proximal": None,
        "StructuredSparse": "structured_sparse",
        "SharpnessAware": "sharpness_aware",
        "Lookahead": "look_ahead",
        "GradientCentralization": "gradient_centralization",
        **dict.fromkeys(_KERAS, "keras_own"),
    },
    registered=True,
)
