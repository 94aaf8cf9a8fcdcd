"""By which function the values of a tensor were made, before layers that only hand them on."""

import keras

from tfstruct.graph.operation_traits import function_name, traits_of
from tfstruct.keras_internals.graph_nodes import Node, made_by

# What hands on every value of its input once, whatever else still reads it.
_MOVERS = ("identity", "view", "order")


def ending(x: keras.KerasTensor) -> tuple[str, keras.Operation]:
    """The activation that made an output, such as `"softmax"`, `"linear"` where there is none, and whose it is.

    Looked for behind dropout, reshapes, casts and linear activations, inside nested models and wrappers. What a layer
    that no rule knows says of itself is not believed.
    """
    outer: list[tuple[keras.Model, Node]] = []
    while True:
        op, node, index = made_by(x)
        if isinstance(op, keras.Model) and getattr(op, "outputs", None):
            outer.append((op, node))
            x = op.outputs[index]
            continue
        if node.is_input and outer:
            model, node = outer.pop()
            x = node.input_tensors[next(i for i, y in enumerate(model.inputs) if y is x)]
            continue
        while isinstance(op, keras.layers.Wrapper) and not isinstance(op, keras.layers.Bidirectional):
            op = op.layer
        if isinstance(op, keras.Model) and getattr(op, "outputs", None):
            x = op.outputs[0]
            continue
        if node.is_input or traits_of(op).moves not in _MOVERS:
            return activation_of(op) or "linear", op
        x = node.input_tensors[0]


def activation_of(op: keras.Operation) -> str | None:
    """The name of the function that an operation applies at its end, such as `"relu"`; None where it applies none.

    None too where that is not known: what a layer of a user's own holds as `activation` may act anywhere in it. See
    `operation_traits.function_name`.
    """
    traits = traits_of(op)
    if traits.activated:
        return function_name(op.activation)
    return None if traits.function in ("", "linear") else traits.function
