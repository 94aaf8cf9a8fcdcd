"""Quantization: the forward pass of a quantized file in Keras, and the rounding of weights."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Scheme": "scheme",
        "Twin": "twin",
        "dequantize": "dequantizing",
        "twin": None,
        "calibrate": "calibration",
        "equalize": "equalization",
        "correct_bias": "bias_correction",
        "sensitivity": "layer_sensitivity",
        "mixed_precision": "precision_search",
        "adaround": "reconstruction",
        "blockwise": "reconstruction",
    },
    registered=True,
)
