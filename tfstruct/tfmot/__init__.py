"""TFMOT's names and arguments for Keras 3 models: `from tfstruct import tfmot`.

    from tfstruct import tfmot  # instead of: import tensorflow_model_optimization as tfmot

Thin adapters over `tfstruct.callbacks` and `tfstruct.quantize`. Layers are not wrapped: they keep their names, and a
model shares its layers with the one that it was made of, as TFMOT's do. What TFMOT has and this has not is an error
that says what to write instead. New code is shorter with the callbacks themselves.

- `sparsity/keras.py`: `prune_low_magnitude`, its schedules and callbacks, `strip_pruning`
- `clustering/keras.py`: `cluster_weights`, `strip_clustering`
- `quantization/keras.py`: `quantize_model`, annotations, `quantize_apply`
- `experimental/combine.py`: schemes of `quantize_apply` that keep zeros and shared values
- `marked.py`: what was said of a layer or model, kept on it; models on the same layers
"""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__, dict.fromkeys(("sparsity", "clustering", "quantization", "experimental"))
)
