"""What layers are made of: layers inside them, weights behind properties, and the type that weights are read in."""

import contextlib
from collections.abc import Iterator

import keras
from keras.src.backend.common import AutocastScope


def all_layers(layer: keras.layers.Layer, itself: bool = True, deep: bool = True) -> list[keras.layers.Layer]:
    """A layer or model and all layers inside of it, each once.

    Args:
        itself: whether the layer is among them.
        deep: whether those inside of others are.
    """
    return list(layer._flatten_layers(include_self=itself, recursive=deep))


def parts_of(layer) -> list[keras.layers.Layer]:
    """The layers that a layer or model holds itself; none for an operation that is no layer."""
    return list(getattr(layer, "_layers", ()))


def own_trainable(layer) -> list[keras.Variable]:
    """The weights of a layer without those of layers inside it, frozen or not, that would train; no statistics."""
    return list(getattr(layer, "_trainable_variables", ()))


def own_weights(layer) -> list[keras.Variable]:
    """The weights of a layer without those of layers inside it, trainable ones first, as in Keras's files."""
    return [*own_trainable(layer), *getattr(layer, "_non_trainable_variables", ())]


def stored_weight(layer: keras.layers.Layer, name: str = "kernel") -> keras.Variable:
    """The variable behind a weight, such as `kernel` of a Dense or `embeddings` of an Embedding.

    The attribute of that name is computed in some layers: LoRA adds to it, quantization scales it.
    """
    variable = getattr(layer, f"_{name}", None)
    return variable if isinstance(variable, keras.Variable) else getattr(layer, name)


def regularizer_name(layer: keras.layers.Layer) -> str:
    """The attribute that holds the regularizer of an attention layer's kernels."""
    return "_kernel_regularizer" if hasattr(layer, "_kernel_regularizer") else "kernel_regularizer"


def takes_mask(layer: keras.layers.Layer) -> bool:
    """Whether the `call` of a layer has an argument `mask`."""
    return getattr(layer, "_call_has_mask_arg", False)


def attention_projections(layer: keras.layers.Layer) -> dict[str, keras.layers.EinsumDense]:
    """The products inside `MultiHeadAttention` and `GroupQueryAttention`: query, key, value, output, and the gate of
    those that have one."""
    found = {name: getattr(layer, f"_{name}_dense") for name in ("query", "key", "value", "output")}
    gated = getattr(layer, "_use_gate", False) or getattr(layer, "use_gate", False)
    if gated and getattr(layer, "_gate_dense", None) is not None:
        found["gate"] = layer._gate_dense
    return found


def attended_axes(layer: keras.layers.MultiHeadAttention) -> int:
    """Over how many axes `MultiHeadAttention` compares positions."""
    return len(layer._attention_axes)


def given_output_shape(layer: keras.layers.Layer):
    """`output_shape` as `Lambda` and `MultiHeadAttention` were given it; None where it was left out."""
    return layer._output_shape


def same_lambda(layer: keras.layers.Lambda, **settings) -> keras.layers.Lambda:
    """A new `Lambda` of the same function. Its configuration would carry code, and `from_config` run it."""
    return keras.layers.Lambda(layer.function, given_output_shape(layer), layer.mask, layer.arguments, **settings)


def saved_object(layer: keras.layers.TFSMLayer):
    """What TensorFlow loaded from the SavedModel that a `TFSMLayer` runs."""
    return layer._reloaded_obj


def draws_any_shape(initializer) -> bool:
    """Whether an initializer is one of Keras's random ones, which make weights of every shape."""
    return type(initializer).__module__.startswith("keras.src.initializers.random")


@contextlib.contextmanager
def stored_precision() -> Iterator[None]:
    """While it is open, weights are read as they are stored, not as their float16 copies (`mixed_float16`)."""
    with AutocastScope(None):
        yield


def assign_past_scopes(variable: keras.Variable, value) -> None:
    """Sets a variable now, whatever `keras.StatelessScope` is open."""
    variable._direct_assign(value)
