"""Models of Keras 2 (`tf_keras`) as calls of layers, the wrappers of TFMOT, and the names that Keras 2 writes."""

import importlib
from types import ModuleType


def is_functional(model) -> bool:
    """Whether a Keras 2 model is one of layers called on tensors, and no subclass with a `call` of its own."""
    return getattr(model, "_is_graph_network", False)


def is_built_sequential(model) -> bool:
    """Whether a Sequential model of Keras 2 knows the shape of its input."""
    return bool(getattr(model, "_graph_initialized", False) or model.inputs)


def nodes_in_order(model) -> list:
    """The calls inside a functional model, each behind those whose results it reads; its inputs first."""
    return [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]


def inputs_and_outputs(model) -> tuple:
    """The tensors of a functional model as they were given to it: one, or lists and dicts of them."""
    return model._nested_inputs, model._nested_outputs


def layer_of(tensor):
    """The layer that made a tensor; of an input of a model its `InputLayer`."""
    return tensor._keras_history.layer


def argument_names(layer) -> list[str]:
    """The names of the arguments of a layer's `call`."""
    return layer._call_spec.arg_names


def normalized_shape(layer) -> list[int]:
    """The sizes of the axes along which a `Normalization` keeps means of their own."""
    return [layer._broadcast_shape[axis] for axis in layer._keep_axis]


def quantized_weights(wrapper) -> list[tuple]:
    """(variable, quantizer, its variables by name) of each weight that a `QuantizeWrapper` of TFMOT quantizes."""
    return list(wrapper._weight_vars)


def quantized_activations(wrapper) -> list[tuple]:
    """The variables of the ranges before and behind each activation that a `QuantizeWrapper` quantizes, or None."""
    return [
        (getattr(act, "_pre_activation_vars", None), getattr(act, "_post_activation_vars", None))
        for act in wrapper._quantize_activations
    ]


def quantized_output(wrapper):
    """The variables of the range of a `QuantizeWrapper`'s output; None where it is not quantized."""
    return wrapper._output_quantizer_vars if wrapper._output_quantizers else None


def every_layer() -> dict[str, type]:
    """The classes that Keras 2 makes layers of by name when it opens a file."""
    from tf_keras.src.layers import serialization

    serialization.populate_deserializable_objects()
    return dict(serialization.LOCAL.ALL_OBJECTS)


def every_initializer() -> dict[str, object]:
    """What Keras 2 makes initializers of by name when it opens a file."""
    from tf_keras.src.initializers import LOCAL, populate_deserializable_objects

    populate_deserializable_objects()
    return dict(LOCAL.ALL_OBJECTS)


def defining_module(name: str) -> ModuleType:
    """The module that defines a public namespace of Keras 2, such as `"losses"`, or `"metrics.base_metric"`."""
    return importlib.import_module(f"tf_keras.src.{name}")


def written_name(cls: type) -> str | None:
    """The name that Keras 2 writes into files for a class of its own, such as `keras.layers.Dense`."""
    from tensorflow.python.util import tf_export

    return tf_export.get_canonical_name_for_symbol(cls, api_name="keras")
