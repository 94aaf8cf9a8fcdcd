"""tfstruct: smaller and faster Keras 3 models, from training to a verified `.tflite` file.

The names here load on first use: `import tfstruct` alone imports neither TensorFlow nor Keras.
"""

import importlib

__version__ = "0.1.0"

_ROOMS = ("analyze", "convert", "errors", "graph", "legacy", "quantize", "samples", "surgery")
_HOME = {
    "Recipe": "convert",
    "TFLiteModel": "convert",
    "to_tflite": "convert",
    "verify": "convert",
    "check_target": "convert",
    "profile": "analyze",
    "explain": "analyze",
    "Plan": "surgery",
    "plan_channels": "surgery",
    "apply": "surgery",
    "shrink": "surgery",
    "recalibrate_batch_norm": "surgery",
    "BudgetError": "errors",
    "PlanError": "errors",
    "TfstructError": "errors",
    "ConversionError": "errors",
    "DataError": "errors",
    "ModelError": "errors",
    "RecipeError": "errors",
    "VerificationError": "errors",
}
__all__ = [*_HOME, *_ROOMS]


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
