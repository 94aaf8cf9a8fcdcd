"""Which layers are opened: custom ones, and Keras's own that hold such a layer where no rule looks inside."""

import dataclasses
from collections.abc import Callable

import keras
from keras import layers

from tfstruct.graph.opening.composites import LAYERS, is_composite
from tfstruct.graph.opening.recording import ClosedError
from tfstruct.graph.rules import rule_of
from tfstruct.graph.rules.recurrent import knows_cell
from tfstruct.graph.trace import functional_of
from tfstruct.keras_internals.layer_parts import all_layers, takes_mask


def is_custom(layer: keras.layers.Layer) -> bool:
    """Whether no rule knows the layer, and it is none of Keras's own or a `Lambda`; or it holds such a layer."""
    return _is(layer, _is_own)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which layers are opened: custom ones, composites of Keras's own, and what holds such layers."""

    custom: bool = True
    composites: bool = False

    def __call__(self, layer: keras.layers.Layer) -> bool:
        return _is(layer, lambda one: (self.custom and _is_own(one)) or (self.composites and is_composite(one)))


EVERY_CUSTOM = Wanted()


def _is(layer: keras.layers.Layer, wanted: Callable[[keras.Operation], bool]) -> bool:
    if isinstance(layer, keras.Model):
        functional = functional_of(layer)
        if functional is None:
            return wanted(layer)
        inside = [one for one in all_layers(layer) if one is not layer and one is not functional]
        return any(_is(one, wanted) for one in inside) or any(map(wanted, functional.operations))
    if type(layer) is layers.TimeDistributed:  # its rule is that of one layer
        return wanted(layer) or _is(layer.layer, wanted)
    if type(layer) is layers.Bidirectional:
        return _is(layer.forward_layer, wanted) or _is(layer.backward_layer, wanted)
    return wanted(layer)


def _is_own(layer: keras.Operation) -> bool:
    if not isinstance(layer, keras.layers.Layer):
        return False
    if isinstance(layer, keras.Model):
        return functional_of(layer) is None
    if type(layer) is layers.TimeDistributed:
        return isinstance(layer.layer, keras.Model)
    if is_loop(layer):
        return not knows_cell(layer.cell)
    if type(layer) is layers.Lambda:  # its function is the user's
        return rule_of(layer) is None
    return rule_of(layer) is None and not knows_cell(layer) and type(layer).__module__.partition(".")[0] != "keras"


def is_loop(layer) -> bool:
    """Whether the layer runs a cell step by step."""
    return type(layer) is layers.RNN


def call_of(layer: keras.layers.Layer, composites: bool = False) -> Callable:
    """What is recorded of the layer: its own code, or other code that computes the same, without a loop or in the form
    of a composite."""
    if type(layer) is layers.TimeDistributed:
        return _by_positions
    return LAYERS.get(type(layer), type(layer).call) if composites else type(layer).call


def _by_positions(wrapper: layers.TimeDistributed, inputs, training=None, mask=None):
    """The layer inside on all steps at once, as if they were samples."""
    if mask is not None and takes_mask(wrapper.layer):
        raise ClosedError("the layer inside reads a mask")
    shape = keras.ops.shape(inputs)
    made = wrapper.layer(keras.ops.reshape(inputs, (shape[0] * shape[1], *shape[2:])))
    return keras.ops.reshape(made, (shape[0], shape[1], *keras.ops.shape(made)[1:]))
