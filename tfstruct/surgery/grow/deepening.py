"""`deepen`: a new layer that is the identity until it is trained."""

import keras
import numpy as np
from keras import layers

from tfstruct.arguments import checked
from tfstruct.errors import ModelError, PlanError
from tfstruct.graph import Call, Graph, open_and_trace, rewire
from tfstruct.graph.cpu_kernels import refused
from tfstruct.graph.endings import activation_of
from tfstruct.graph.operation_traits import function_traits, layers_with
from tfstruct.graph.traits import ANY
from tfstruct.keras_internals.graph_nodes import calls_of
from tfstruct.keras_internals.layer_parts import stored_weight
from tfstruct.reporting import Result
from tfstruct.surgery.edit_report import edited

_KINDS = ("dense", "conv", "depthwise")
# By the axes of their input.
_CONVS = dict(enumerate(layers_with("conv"), 3))
_DEPTHWISE = dict(enumerate(layers_with("depthwise"), 3))
_CONVOLUTIONS = layers_with("conv", "depthwise", "transposed", "separable")


@checked
def deepen(
    model: keras.Model,
    after: str,
    *,
    kind: str | None = None,
    batch_norm: bool = False,
    activation: str | None = None,
    open_layers: str | bool = "auto",
) -> Result:
    """Inserts a layer behind `after` that is the identity at first, so that the function stays (Net2DeeperNet).

    The new layer is called `{after}_deeper` and runs behind every call of `after`:

        dense: W = I;   conv: W[c, i, i] = 1 at the centre c of 3 taps along each axis, padding `same`;
        depthwise: W[c, i] = 1;   biases are 0

    With `batch_norm`, `{after}_deeper_norm` follows, of mean 0, variance 1 and gamma = sqrt(1 + epsilon): the identity
    at inference. Under training it takes the batch's own statistics at once; `recalibrate_batch_norm` measures them.

    Args:
        model: a Sequential or functional model; it is not touched.
        after: name of a layer or nested model, `block/conv` for one inside a nested model.
        kind: `"dense"`, `"conv"` or `"depthwise"`; by default conv behind convolutions and wherever there are two or
            more axes of space, dense otherwise.
        batch_norm: whether a batch norm follows.
        activation: `"relu"` or `"linear"`; by default relu behind relu and relu6, where relu(x) = x, and linear
            otherwise.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `.model`, and a report with the difference that it makes on random inputs.

    Raises:
        ModelError: the model has no graph, or no such layer.
        PlanError: nothing can follow `after`, such as a recurrent layer or one of several outputs; relu is asked for
            behind results that may be negative; `kind` does not fit the shape, or does not run where the model does.

    Source: Eq. 4 and Sec. 2.3, arXiv:1511.05641.

    Example:
        >>> deeper = tfstruct.surgery.deepen(model, after="hidden").model
        >>> [layer.name for layer in deeper.layers]
        ['hidden', 'hidden_deeper', 'scores']
        >>> np.allclose(model(x), deeper(x), atol=1e-5)
        True
    """
    if kind is not None and kind not in _KINDS:
        raise PlanError(f"`kind` must be one of {', '.join(_KINDS)}, or None. Received: {kind!r}.")
    if activation not in (None, "relu", "linear"):
        raise PlanError(
            f'`activation` must be "relu" or "linear", as no other leaves its input as it is. Received: {activation!r}.'
        )
    graph = open_and_trace(model, open_layers=open_layers)
    op, call = _layer(graph, after)
    _check(op, after)
    output = op.outputs[0] if call is None else call.node.outputs[0]
    function = None if call is None else activation_of(op)
    least, _ = function_traits(function).output_range or ANY
    if activation == "relu" and least < 0:  # relu(x) = x elsewhere
        raise PlanError(
            f"`{after}` may put out negative numbers ({function or 'no activation'}), which a relu behind it would cut "
            'off. Leave `activation` out, or say "linear".'
        )
    activation = activation or ("relu" if function in ("relu", "relu6") else "linear")
    name = f"{after.rsplit('/', 1)[-1]}_deeper"
    taken = {x.name for body in graph.bodies.values() for x in body.functional.operations}
    if name in taken:
        raise PlanError(f"`{model.name}` has a layer `{name}` already. Rename it, or deepen behind `{name}`.")
    kind = kind or ("conv" if isinstance(op, _CONVOLUTIONS) or len(output.shape) > 3 else "dense")
    chain = _identity(kind, op, output, name, batch_norm, activation, after)
    why = refused(chain[0])
    if why and not any(refused(x.op) == why for x in graph.calls):
        raise PlanError(f'kind `{kind}` behind `{after}` would not run everywhere: {why}. Give kind="depthwise".')

    def behind(step, run, *args, **kwargs):
        x = run(*args, **kwargs)
        for layer in chain:
            x = layer(x)
        return x

    made = rewire(graph, {id(op): behind}).model
    # Only now are they built.
    _set_identity(chain, kind)
    what = f"followed by {name}, {kind}{' with batch norm' if batch_norm else ''}, {activation}: the identity at first"
    return edited(graph, made, [(after, what)], exact=True)


def _layer(graph: Graph, after: str) -> tuple[keras.Operation, Call | None]:
    """The layer of that name and its first call; None for a nested model."""
    found: dict[int, tuple[str, keras.Operation, Call | None]] = {}
    for call in graph.calls:
        found.setdefault(id(call.op), (call.path, call.op, call))
    for key, body in graph.bodies.items():
        if body.path:
            found.setdefault(key, (body.path.rstrip("/"), body.model, None))
    chosen = [x for x in found.values() if x[0] == after] or [
        x for x in found.values() if x[0].rsplit("/", 1)[-1] == after
    ]
    if len(chosen) == 1:
        return chosen[0][1:]
    if chosen:
        raise ModelError(f"`{after}` may be any of {', '.join(x[0] for x in chosen)}. Name one of them.")
    names = [x[0] for x in found.values()]
    raise ModelError(
        f"`{graph.model.name}` has no layer `{after}`. It has {', '.join(names[:12])}"
        f"{', ...' if len(names) > 12 else ''}."
    )


def _check(op, after: str) -> None:
    if isinstance(op, (layers.RNN, layers.Bidirectional)):
        raise PlanError(f"`{after}` is recurrent: no recurrent layer is the identity. Deepen behind another layer.")
    for node in calls_of(op):
        if len(node.outputs) != 1:
            raise PlanError(f"`{after}` has {len(node.outputs)} outputs; a layer can follow one. Name another layer.")
        x = node.outputs[0]
        dtype = keras.backend.standardize_dtype(x.dtype)
        if not dtype.startswith(("float", "bfloat")) or len(x.shape) < 2 or x.shape[-1] is None:
            raise PlanError(
                f"A layer can follow floats of shape (batch, ..., channels). `{after}` puts out {dtype} "
                f"{tuple(x.shape)}."
            )
        if x.shape[1:] != calls_of(op)[0].outputs[0].shape[1:]:
            raise PlanError(f"`{after}` is called on tensors of several shapes, which one layer cannot follow.")


def _identity(kind, op, output, name, batch_norm, activation, after) -> list[keras.layers.Layer]:
    rank, dtype = len(output.shape), getattr(op, "dtype_policy", None)
    first = rank > 2 and (
        getattr(op, "data_format", None) == "channels_first"
        or (isinstance(op, layers.BatchNormalization) and op.axis == 1)
    )
    channels = output.shape[1 if first else -1]
    last = "linear" if batch_norm else activation
    common = {"use_bias": not batch_norm, "activation": last, "name": name, "dtype": dtype}
    table = {"conv": _CONVS, "depthwise": _DEPTHWISE}.get(kind)
    if table is None:
        if first:
            raise PlanError(f"`{after}` has its channels first: kind `dense` would mix its columns. Use conv.")
        chain = [layers.Dense(channels, **common)]
    elif rank not in table:
        raise PlanError(
            f"kind `{kind}` needs {' or '.join(str(r) for r in table)} axes. `{after}` puts out {tuple(output.shape)}."
        )
    else:
        common |= {"padding": "same", "data_format": "channels_first" if first else "channels_last"}
        chain = [table[rank](3, **common) if kind == "depthwise" else table[rank](channels, 3, **common)]
    if batch_norm:
        chain.append(layers.BatchNormalization(1 if first else -1, name=f"{name}_norm", dtype=dtype))
        if activation != "linear":
            chain.append(layers.Activation(activation, name=f"{name}_{activation}", dtype=dtype))
    return chain


def _set_identity(chain, kind: str) -> None:
    layer = chain[0]
    kernel = stored_weight(layer)
    value = np.zeros(kernel.shape)
    centre = tuple(n // 2 for n in kernel.shape[:-2])
    value[centre] = np.ones(kernel.shape[-2:]) if kind == "depthwise" else np.eye(kernel.shape[-1])
    kernel.assign(value)
    if layer.bias is not None:
        layer.bias.assign(np.zeros(layer.bias.shape))
    for norm in (x for x in chain if isinstance(x, layers.BatchNormalization)):
        norm.gamma.assign(np.full(norm.gamma.shape, np.sqrt(1 + norm.epsilon)))
