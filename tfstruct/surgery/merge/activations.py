"""`fuse_activation`: activation layers become the argument of the layer before them."""

import keras
from keras import layers

from tfstruct.arguments import checked
from tfstruct.graph import Call, Graph, open_and_trace
from tfstruct.graph.contraction import plain
from tfstruct.graph.linear_layers import LINEAR, has_activation
from tfstruct.graph.operation_traits import traits_of
from tfstruct.graph.wiring import Remake, Unfit, Wiring
from tfstruct.reporting import Result
from tfstruct.surgery.merge.passes import Pass, finished, repeated


@checked
def fuse_activation(model: keras.Model, *, open_layers: str | bool = "auto") -> Result:
    """Makes an activation layer behind a dense layer or convolution the `activation` argument of that layer.

    Activations that Keras knows by name, and functions that it can save: ReLU(max_value=6) is "relu6", LeakyReLU(0.2)
    "leaky_relu". The layer before keeps its name, unless an output of the model is named after the activation.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Result`: `skipped` names activation layers that stay, and why.

    Raises:
        ModelError: the model's graph cannot be walked (a subclassed model).

    Example:
        >>> dense, relu = keras.layers.Dense(4), keras.layers.ReLU()
        >>> apart = keras.Sequential([keras.Input((8,)), dense, relu, keras.layers.Dense(2)])
        >>> fused = tfstruct.surgery.fuse_activation(apart).model
        >>> [layer.activation.__name__ for layer in fused.layers]
        ['relu', 'linear']
    """
    graph = open_and_trace(model, open_layers=open_layers)
    return finished(graph, repeated(graph, fuse_once))


def fuse_once(graph: Graph) -> Pass:
    """Fuses every activation with the layer before it."""
    wiring, remake = Wiring(graph), Remake(graph)
    changes, skipped = [], []
    for calls in wiring.operations():
        call = calls[0]
        if not _activates(call.op) or len(call.inputs) != 1:
            continue
        before = wiring.maker.get(call.input.key)
        if before is None or not plain(before, *LINEAR) or has_activation(before):
            continue
        try:
            firsts = wiring.pair(calls)
            _check(wiring, remake, firsts[0], call)
            name = wiring.inherited(call, firsts[0])
            remake.replace(firsts[0].op, None, {"activation": _activation(call.op), **name})
            remake.drop(call.op)
            changes.append((call.path, f"became the activation of `{firsts[0].path}`"))
        except Unfit as reason:
            skipped.append((call.path, str(reason)))
    return Pass(remake.model() if changes else None, changes, skipped)


def _activates(op) -> bool:
    """Whether an operation is an activation function: a layer, or one that Keras has by that name."""
    traits = traits_of(op)
    if isinstance(op, layers.Layer):
        return bool(traits.function or isinstance(op, layers.Activation | layers.PReLU))
    return hasattr(keras.activations, traits.function or "-") and traits.elementwise


def _check(wiring: Wiring, remake: Remake, first: Call, call: Call) -> None:
    wiring.check_owner(first)
    if remake.touched(first.op):
        raise Unfit(f"`{first.path}` has just been given one")
    dtype = getattr(call.op, "compute_dtype", first.op.compute_dtype)
    if dtype != first.op.compute_dtype:
        raise Unfit(f"it computes in {dtype}, `{first.path}` in {first.op.compute_dtype}")


def _activation(op) -> object:
    """The activation as it stands in a layer's configuration.

    Raises:
        Unfit: no function of Keras's is the same.
    """
    if not isinstance(op, layers.Layer):
        return traits_of(op).function
    if isinstance(op, layers.ReLU):
        if op.threshold == 0 and op.max_value == 6 and op.negative_slope == 0:
            return "relu6"
        if op.threshold == 0 and op.max_value is None and op.negative_slope in (0, 0.2):
            return "leaky_relu" if op.negative_slope else "relu"
        raise Unfit(
            f"Keras has no activation function for ReLU(max_value={op.max_value}, "
            f"negative_slope={op.negative_slope}, threshold={op.threshold})"
        )
    if isinstance(op, layers.LeakyReLU):
        if op.negative_slope == 0.2:
            return "leaky_relu"
        raise Unfit(f'the slope of "leaky_relu" is 0.2, its own {op.negative_slope}')
    if isinstance(op, layers.ELU):
        if op.alpha == 1:
            return "elu"
        raise Unfit(f'the alpha of "elu" is 1, its own {op.alpha}')
    if isinstance(op, layers.Softmax):
        if op.axis == -1:
            return "softmax"
        raise Unfit(f'the axis of "softmax" is -1, its own {op.axis}')
    if isinstance(op, layers.PReLU):
        raise Unfit("its slopes are weights")
    config = op.get_config()["activation"]
    try:
        same = keras.activations.get(config) is op.activation
    except (TypeError, ValueError):
        same = False
    if not same:
        raise Unfit("its function cannot be saved; register it with keras.saving.register_keras_serializable")
    return config
