"""`tfmot.clustering.keras`."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(__name__, {"keras": None})
