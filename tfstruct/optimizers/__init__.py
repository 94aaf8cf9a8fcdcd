"""Optimizers: Keras `Optimizer` subclasses, for `model.compile` and `apply_gradients`. The names load on first use."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {},
)
