"""Conversion of Keras models to verified `.tflite` files.

The names here load on first use: `import tfstruct.convert` costs nothing.
"""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "ConversionError": "tflite",
        "VerificationError": "tflite",
        "Recipe": "recipe",
        "to_tflite": "tflite",
        "Converter": "tflite",
        "TFLiteModel": "tflite_model",
        "verify": "verification",
        "Verification": "verification",
        "Report": "report",
        "check_target": "targets",
        "TargetReport": "target_report",
        "TARGETS": "targets",
        "measured_latency": "draft",
        "LatencyTable": "latency",
        "dequantize": "stored_kernels",
        "pack": "packing.packed",
        "unpack": "packing.packed",
        "Packed": "packing.packed",
        "PackReport": "packing.report",
        "compress_for_micro": "packing.lookup_tables",
    },
)
