"""`tfmot.experimental.combine`."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(__name__, {"combine": None})
