"""Models of Keras 2 and of TFMOT as Keras 3 models, and any model file without running code from it."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {"Legacy": "loading", "check_path": "files", "explain": "loading", "load": "loading", "read": "loading"},
)
