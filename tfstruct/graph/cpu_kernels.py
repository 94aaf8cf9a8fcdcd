"""What TensorFlow's own CPU kernels refuse: those of processors where oneDNN is off, as it is without AVX-512."""

from keras import layers

from tfstruct.graph.contraction import TRANSPOSED
from tfstruct.graph.operation_traits import layers_with

_OF_DEPTH, _FULL = layers_with("depthwise", "separable"), layers_with("conv", "transposed")


def unequal(layer, strides) -> str | None:
    """Why a layer cannot have these strides there; None where it can."""
    if isinstance(layer, _OF_DEPTH) and len(set(strides)) > 1:
        return f"TensorFlow's CPU kernels of {type(layer).__name__} take equal strides only, not {tuple(strides)}"
    return None


def refused(layer) -> str | None:
    """Why a layer does not run there, or does not train; None where it does."""
    name = type(layer).__name__
    if isinstance(layer, _FULL):
        # Keras compiles groups, and channels before three axes, by XLA.
        compiled = isinstance(layer, layers.Conv3D) or getattr(layer, "groups", 1) > 1
        if layer.data_format == "channels_first" and not compiled:
            return f"TensorFlow's CPU kernels of {name} have no channels first"
        if isinstance(layer, TRANSPOSED) and any(n > 1 for n in layer.dilation_rate):
            return f"TensorFlow's CPU kernels of {name} have no dilation"
    return unequal(layer, getattr(layer, "strides", ()))
