"""Keras's own optimizers, where they do the job."""

from keras.optimizers import (
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adamax,
    AdamW,
    Ftrl,
    Lamb,
    Lion,
    LossScaleOptimizer,
    Muon,
    Nadam,
    Optimizer,
    RMSprop,
)

__all__ = [
    "SGD", "Adadelta", "Adafactor", "Adagrad", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion", "LossScaleOptimizer",
    "Muon", "Nadam", "Optimizer", "RMSprop",
]  # fmt: skip
