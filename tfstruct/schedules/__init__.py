"""From the step to a value: ratios of sparsity, and learning rates. The names load on first use."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {},
)
