"""Dropout layers and wrappers, the identity in inference. The names load on first use."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {},
)
