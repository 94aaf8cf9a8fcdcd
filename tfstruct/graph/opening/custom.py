"""Which layers are opened: custom ones, and Keras's own that hold such a layer where no rule looks inside."""

from collections.abc import Callable

import keras
from keras import layers

from tfstruct.graph.opening.recording import ClosedError
from tfstruct.graph.rules import rule_of
from tfstruct.graph.rules.recurrent import knows_cell
from tfstruct.graph.trace import functional_of
from tfstruct.keras_internals.layer_parts import all_layers, takes_mask


def is_custom(layer: keras.layers.Layer) -> bool:
    """Whether no rule knows the layer, and it is none of Keras's own or a `Lambda`; or it holds such a layer."""
    if isinstance(layer, keras.Model):
        functional = functional_of(layer)
        if functional is None:
            return True
        return any(is_custom(one) for one in all_layers(layer) if one is not layer and one is not functional)
    if type(layer) is layers.TimeDistributed:  # its rule is that of one layer
        return isinstance(layer.layer, keras.Model) or is_custom(layer.layer)
    if type(layer) is layers.Bidirectional:
        return is_custom(layer.forward_layer) or is_custom(layer.backward_layer)
    if is_loop(layer):
        return not knows_cell(layer.cell)
    if type(layer) is layers.Lambda:  # its function is the user's
        return rule_of(layer) is None
    return rule_of(layer) is None and not knows_cell(layer) and type(layer).__module__.partition(".")[0] != "keras"


def is_loop(layer) -> bool:
    """Whether the layer runs a cell step by step."""
    return type(layer) is layers.RNN


def call_of(layer: keras.layers.Layer) -> Callable:
    """What is recorded of the layer: its own code, or other code that computes the same without a loop."""
    return _by_positions if type(layer) is layers.TimeDistributed else type(layer).call


def _by_positions(wrapper: layers.TimeDistributed, inputs, training=None, mask=None):
    """The layer inside on all steps at once, as if they were samples."""
    if mask is not None and takes_mask(wrapper.layer):
        raise ClosedError("the layer inside reads a mask")
    shape = keras.ops.shape(inputs)
    made = wrapper.layer(keras.ops.reshape(inputs, (shape[0] * shape[1], *shape[2:])))
    return keras.ops.reshape(made, (shape[0], shape[1], *keras.ops.shape(made)[1:]))
