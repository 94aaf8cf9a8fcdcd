"""Wrappers that change what a layer computes in training only, and how channels pass through them."""

from collections.abc import Sequence

import keras

from tfstruct.errors import ArgumentError
from tfstruct.graph import Axes, Call, rule
from tfstruct.graph.layer_tree import give_losses
from tfstruct.graph.rules import rule_of
from tfstruct.layers.seeded import Seeded, require_seed


class InnerLayer(Seeded, keras.layers.Wrapper):
    """A layer that computes as the one inside in inference, and in some other way in training.

    A wrapper says how in `in_training`. It has the inner layer's dtype policy unless it is given one.

    Args:
        layer: any layer of one input tensor.
        seed: of the draws.
    """

    def __init__(self, layer: keras.layers.Layer, seed: int | None = None, **kwargs):
        if isinstance(layer, keras.layers.Layer):
            kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(require_seed(seed))
        self.supports_masking = layer.supports_masking

    def in_training(self, inputs):
        raise NotImplementedError

    def in_inference(self, inputs):
        return self.layer(inputs)

    def call(self, inputs, training=False):
        return self.in_training(inputs) if training else self.in_inference(inputs)

    def inference_layer(self) -> keras.layers.Layer:
        """A plain layer, called as this wrapper, that computes what it does in inference. The wrapper stays as it is.

        Raises:
            ArgumentError: the wrapper was not built yet.
        """
        if not self.built:
            raise ArgumentError(f"`{self.name}` has no weights yet. Call it, or build it, first.")
        config = keras.saving.serialize_keras_object(self.layer)  # with the shape that it was built for
        made = keras.saving.deserialize_keras_object({**config, "config": {**config["config"], "name": self.name}})
        made.trainable = self.trainable and self.layer.trainable
        made.set_weights(self.layer.get_weights())
        return made

    def tie(self, call: Call) -> None:
        """Notes how weights of the wrapper's own go with channels; most have none."""

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def call_with(layer: keras.layers.Layer, values: Sequence[tuple[keras.Variable, object]], *args):
    """`layer(*args)` with other values in place of some of its weights, for this call only.

    What the layer assigns in the meantime (batch statistics, states, seeds) and its losses are kept.
    """
    replaced = {id(variable) for variable, _ in values}
    with keras.StatelessScope(values, collect_losses=True) as scope:
        outputs = layer(*args)
    give_losses(scope, layer)
    for variable in layer.variables:
        value = scope.get_current_value(variable)
        if value is not None and id(variable) not in replaced:
            variable.assign(value)
    return outputs


def kernels(wrapper: InnerLayer) -> list[keras.Variable]:
    """The weights of the inner layer that connect units: floats of two axes or more, no biases.

    Raises:
        ArgumentError: there are none.
    """
    found = [
        w
        for w in wrapper.layer.weights
        if len(w.shape) > 1 and not w.name.endswith("bias") and keras.backend.is_float_dtype(w.dtype)
    ]
    if not found:
        raise ArgumentError(
            f"{type(wrapper).__name__} needs a layer with a kernel, a weight of two axes or more. "
            f"Received: {type(wrapper.layer).__name__} `{wrapper.layer.name}` without one."
        )
    return found


@rule(InnerLayer)
def through_the_inner_layer(call: Call) -> Axes | list[Axes]:
    inner = call.op.layer
    found = None if isinstance(inner, keras.Model) else rule_of(inner)
    if found is None:
        what = "a model" if isinstance(inner, keras.Model) else f"{type(inner).__name__}, which no rule knows"
        call.freeze_inputs(f"{call.path} holds {what}")
        return call.untouched()
    within = call.inside("layer", inner, call.inputs, call.shapes)
    call.set("build_config", lambda kept: None, within=("layer",))  # of the shape before surgery
    made = found(within)
    if within.argument_edits or within.offsets or within.rewrite is not None:
        call.freeze_inputs(f"{call.path} holds {type(inner).__name__}, whose call would have to change")
        return call.untouched()
    call.in_place = within.in_place
    call.op.tie(call)
    return made
