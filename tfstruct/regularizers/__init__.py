"""Penalties on weights and on groups of channels."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "L1": "from_keras",
        "L2": "from_keras",
        "L1L2": "from_keras",
        "GroupLasso": "sparsity",
        "BatchNormScale": "sparsity",
        "HoyerSquare": "sparsity",
        "Entropy": "sparsity",
        "Orthogonal": "orthogonality",
        "apply": "attaching",
        "remove": "attaching",
    },
    registered=True,
)
