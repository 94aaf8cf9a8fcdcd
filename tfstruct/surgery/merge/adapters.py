"""`merge_lora`: adds low-rank adapters into the kernels that they adapt."""

import os

import keras

from tfstruct.arguments import checked
from tfstruct.errors import ModelError
from tfstruct.files import TemporaryFolder
from tfstruct.graph.copying import made_again
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.graph.plain_weights import lora_layers, quantized_layers
from tfstruct.reporting import ChangeReport, carrying
from tfstruct.reporting.tables import counted
from tfstruct.surgery.compiling import compile_like

_OPTIONS = ("lora_rank", "lora_alpha")


@checked
def merge_lora(model: keras.Model) -> keras.Model:
    """Makes plain layers of those with `enable_lora`: `kernel <- kernel + (alpha / rank) A B`, which trains again.

    `model.save` puts the product into the kernel too, but what is loaded has LoRA enabled once more, with a product of
    zero: its kernels stay frozen. LoRA: Hu et al. 2021, arXiv:2106.09685.

    Args:
        model: a built model; it is not changed.

    Returns:
        A new model, compiled like this one, that computes the same; names, nested and shared layers as they
        were. `.report` names the layers.

    Raises:
        ModelError: no layer has LoRA weights, layers are quantized by Keras, or the model cannot be made again from its
            configuration.

    Example:
        >>> hidden.enable_lora(2)
        >>> plain = tfstruct.surgery.merge_lora(model)
        >>> plain.get_layer("hidden").lora_enabled, np.allclose(plain(x), model(x), atol=1e-5)
        (False, True)
    """
    if not isinstance(model, keras.Model):
        raise ModelError(f"Expected a keras.Model. Received: {type(model).__name__}.")
    adapted, quantized = lora_layers(model), quantized_layers(model)
    if quantized:
        raise ModelError(
            f"Layers of {model.name!r} are quantized by Keras: {', '.join(quantized)}. Expected float layers: merge "
            "before `quantize`."
        )
    if not adapted:
        raise ModelError(f"No layer of {model.name!r} has LoRA weights: there is nothing to merge.")

    def without_adapters() -> keras.Model:
        plain = type(model).from_config(_without_lora(model.get_config()))
        if not plain.built:
            plain.build_from_config(model.get_build_config())
        with TemporaryFolder("layer") as folder:
            path = os.path.join(folder, "merged.weights.h5")
            model.save_weights(path)  # kernels with the product in them
            plain.load_weights(path)
        return plain

    plain = made_again(model, without_adapters, "be made again without LoRA")
    layers = layer_paths(plain)
    for path, old in layer_paths(model).items():
        if path in layers and isinstance(old, keras.layers.Layer) and not old.trainable:
            layers[path].trainable = False
    left = lora_layers(plain)
    if left:
        raise ModelError(f"{', '.join(left)} of {model.name!r} enable LoRA by themselves when they are made again.")
    changes = tuple((path, "its adapter is part of its kernel") for path in adapted)
    compile_like(plain, model)
    return carrying(plain, ChangeReport(f"{model.name}: {counted(len(adapted), 'adapter')} merged", changes))


def _without_lora(config):
    """A nested configuration without the entries that enable LoRA."""
    if isinstance(config, dict):
        return {key: _without_lora(value) for key, value in config.items() if key not in _OPTIONS}
    if isinstance(config, list | tuple):
        return type(config)(_without_lora(value) for value in config)
    return config
