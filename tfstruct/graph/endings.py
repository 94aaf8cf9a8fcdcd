"""By which function the values of a tensor were made, before layers that only hand them on."""

import keras
from keras import layers

from tfstruct.graph.contraction import CONVS, DEPTHWISE, SEPARABLE, TRANSPOSED
from tfstruct.graph.kinds import built_in_name, kind_of
from tfstruct.graph.rules import is_training_only
from tfstruct.keras_internals.graph_nodes import Node, made_by

# They hand on their input, at inference, whatever else still reads it.
VIEWS = {"Flatten", "Reshape", "Identity", "ExpandDims", "Squeeze", "ActivityRegularization"}
_MOVERS = {*VIEWS, "Permute", "Transpose", "Cast", "StopGradient"}
# Layers and operations that are such a function themselves, and layers whose last step is their `activation`.
_FUNCTIONS = {
    "Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Silu": "silu", "Softmax": "softmax", "Tanh": "tanh",
    "LogSoftmax": "log_softmax",
}  # fmt: skip
ACTIVATED = (
    layers.Activation, layers.Dense, layers.EinsumDense, *CONVS, *DEPTHWISE, *SEPARABLE, *TRANSPOSED,
)  # fmt: skip
_OTHER_NAMES = {"softmax_v2": "softmax", "swish": "silu"}  # of TensorFlow


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
        name = activation_of(op) or "linear"
        moves = is_training_only(op) or built_in_name(op) in _MOVERS
        if node.is_input or not (moves or (isinstance(op, keras.layers.Activation) and name == "linear")):
            return name, op
        x = node.input_tensors[0]


def activation_of(op: keras.Operation) -> str | None:
    """The name of the function that an operation applies at its end, such as `"relu"`; None where it applies none.

    None too where that is not known: what a layer of a user's own holds as `activation` may act anywhere in it. A
    function that is neither Keras's nor TensorFlow's has its module before its name, so that it is like no other.
    """
    name = built_in_name(op)
    if name == "ReLU":
        plain = not op.negative_slope and not op.threshold
        known = {None: "relu", 6.0: "relu6"}.get(None if op.max_value is None else float(op.max_value))
        return known if plain and known else "relu_variant"
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    return None if kind_of(op, (*ACTIVATED, layers.SimpleRNN)) is None else _function_name(op.activation)


def _function_name(function) -> str | None:
    if function is None:
        return None
    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(function, keras.Operation):
        return activation_of(function) or name
    module = getattr(function, "__module__", None) or ""
    if module.partition(".")[0] not in ("keras", "tensorflow"):
        return f"{module}.{name}"
    return None if name == "linear" else _OTHER_NAMES.get(name, name)
