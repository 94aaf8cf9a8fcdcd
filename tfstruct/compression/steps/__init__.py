"""What a strategy is made of, one kind of step a file."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Step": "step",
        "Optimize": "optimizing",
        "DropBlocks": "dropping",
        "DownsampleEarly": "downsampling",
        "Factorize": "factorizing",
        "ShareLayers": "sharing",
        "PruneChannels": "pruning",
        "Quantize": "quantizing",
    },
)
