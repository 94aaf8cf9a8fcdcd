"""Whether every layer computes with the weights that it shows: not so with LoRA, or quantized by Keras."""

import keras

from tfstruct.errors import ModelError
from tfstruct.graph.layer_tree import layer_paths


def lora_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Path -> layer, of those whose kernel is a sum with a product of two small ones (`enable_lora`)."""
    return {path: layer for path, layer in layer_paths(model).items() if getattr(layer, "lora_enabled", False)}


def quantized_layers(model: keras.Model) -> dict[str, str]:
    """Path -> mode, of the layers whose weights are integers, or rounded in every call (`model.quantize`)."""
    modes = {path: getattr(layer, "quantization_mode", None) for path, layer in layer_paths(model).items()}
    return {path: str(mode) for path, mode in modes.items() if mode}


def check_plain(model: keras.Model) -> None:
    """Refuses a model whose layers compute with other weights than their kernels.

    Raises:
        ModelError: with the layers, and what to do.
    """
    quantized = quantized_layers(model)
    if quantized:
        modes = ", ".join(f"{path} ({mode})" for path, mode in quantized.items())
        raise ModelError(
            f"Layers of {model.name!r} are quantized by Keras: {modes}. Their kernels are no float weights any more. "
            "Use the float model, as it was before `quantize`; tfstruct.quantize and to_tflite make integers of it."
        )
    adapted = lora_layers(model)
    if adapted:
        raise ModelError(
            f"Layers of {model.name!r} have LoRA weights: {', '.join(adapted)}. They compute with kernel + A B, not "
            "with their kernel. Use tfstruct.surgery.merge_lora(model): a model with the sums as plain kernels."
        )
