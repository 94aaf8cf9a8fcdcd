"""By which function the values of a tensor were made, before layers that only hand them on."""

import keras

from tfstruct.graph.rules import is_training_only, rule_of

# They hand on their input, at inference, whatever else still reads it.
VIEWS = {"Flatten", "Reshape", "Identity", "ExpandDims", "Squeeze", "ActivityRegularization"}
_MOVERS = {*VIEWS, "Permute", "Transpose", "Cast", "StopGradient"}


def ending(x: keras.KerasTensor) -> tuple[str, keras.Operation]:
    """The activation that made an output, such as `"softmax"`, `"linear"` where there is none, and whose it is.

    Looked for behind dropout, reshapes, casts and linear activations, inside nested models and wrappers. What a layer
    that no rule knows says of itself is not believed.
    """
    outer: list[tuple[keras.Model, object]] = []
    while True:
        op, number, index = x._keras_history
        node = op._inbound_nodes[number]
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
        name = _activation(op)
        moves = is_training_only(op) or type(op).__name__ in _MOVERS
        if node.is_input or not (moves or (isinstance(op, keras.layers.Activation) and name == "linear")):
            return name, op
        x = node.input_tensors[0]


def _activation(op) -> str:
    if rule_of(op) is None:
        return "linear"
    function = getattr(op, "activation", None)
    if function is not None:
        return getattr(function, "__name__", type(function).__name__).lower()
    return type(op).__name__.lower() if type(op).__name__ in ("Softmax", "Sigmoid") else "linear"
