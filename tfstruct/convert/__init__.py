"""Conversion of Keras models to verified `.tflite` files.

The names here load on first use: `import tfstruct.convert` costs nothing.
"""

import importlib

from tfstruct.errors import ConversionError, VerificationError

_HOME = {
    "Recipe": "recipe",
    "to_tflite": "tflite",
    "Converter": "tflite",
    "TFLiteModel": "tflite",
    "verify": "verification",
    "Verification": "verification",
    "Report": "report",
    "check_target": "targets",
    "TargetReport": "targets",
    "TARGETS": "targets",
    "measured_latency": "draft",
    "LatencyTable": "latency",
}

__all__ = ["ConversionError", "VerificationError", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
