"""The oracle of channel surgery: the smaller model computes what the original computes with those channels at zero.

`masked_outputs` runs the original, operation by operation, with every removed channel at zero in every weight and in
every tensor. Operations that take statistics over channels take them over the channels that stay: `REFERENCES` holds
one NumPy function for each of them.
"""

import contextlib
import dataclasses

import keras
import numpy as np
from keras.src import ops as operations

from tfstruct.graph.blocks import atoms
from tfstruct.graph.trace import Body


@contextlib.contextmanager
def masked_weights(graph, kept):
    """While it is open, the weights of the original are zero where they would be cut away."""
    saved = []
    try:
        for slot in graph.slots:
            value = slot.variable.numpy()
            saved.append((slot.variable, value))
            places = np.arange(value.size).reshape(value.shape)
            stays = dataclasses.replace(slot, scale=None).take(places, kept).ravel()
            mask = np.zeros(value.size, value.dtype)
            mask[stays] = 1
            slot.variable.assign(value * mask.reshape(value.shape))
        yield
    finally:
        for variable, value in saved:
            variable.assign(value)


def _mask(channels, kept, value):
    """Zero at the removed channels of a tensor."""
    value = np.array(value)
    for axis, labels in enumerate(channels.axes):
        if labels is not None:
            gone = np.setdiff1d(np.arange(len(labels)), kept(labels))
            value[(slice(None),) * axis + (gone,)] = 0
    return value


def masked_outputs(graph, keep, inputs):
    """The outputs of the original with the removed channels at zero; flat, in the order of the model's outputs."""
    from tfstruct.graph import kept_by

    kept = kept_by(graph, keep)
    calls = iter(graph.calls)
    flat = keras.tree.flatten(inputs)
    with masked_weights(graph, kept):
        return _run(graph.body, flat, calls, kept)


def _run(body: Body, inputs, calls, kept):
    functional = body.functional
    known = {id(x): y for x, y in zip(functional.inputs, inputs, strict=True)}
    for node, step in body.steps:
        if isinstance(step, Body):
            given = node.input_tensors[: len(step.inputs)]  # masks come last
            outputs = _run(step, [known[id(x)] for x in given], calls, kept)
        else:
            call = next(calls)
            outputs = _one(call, node, known, kept)
        known.update({id(x): y for x, y in zip(node.outputs, outputs, strict=True)})
    return [known[id(x)] for x in functional.outputs]


def _one(call, node, known, kept):
    tensors = [np.asarray(known[id(x)]) for x in node.arguments.keras_tensors]
    labelled = any(x is not None for t in call.inputs for x in t.axes)
    if labelled and type(call.op) in REFERENCES:
        made = REFERENCES[type(call.op)](call, tensors, kept)
    elif _name_of_activation(call.op) in OVER_THE_LAST_AXIS and call.outputs[0].axes[-1] is not None:
        made = _with_its_activation(call, node, known, kept)
    else:
        args, kwargs = node.arguments.fill_in(known)
        if getattr(call.op, "_call_has_training_arg", False) and len(args) < 2:
            kwargs = {**kwargs, "training": False}
        made = call.op(*args, **kwargs)
    result = []
    for channels, x, y in zip(call.outputs, keras.tree.flatten(made), node.outputs, strict=True):
        value = _mask(channels, kept, keras.ops.convert_to_numpy(x))
        # The references count in float64: back to the type that the model has there.
        value = keras.ops.convert_to_tensor(value.astype(keras.backend.standardize_dtype(y.dtype)))
        if getattr(x, "_keras_mask", None) is not None:
            value._keras_mask = x._keras_mask  # attention layers read the mask of padded positions from there
        result.append(value)
    return result


# Operations that take statistics over channels: NumPy's word on what they do to the channels that stay.


def _staying(x, labels, axes, kept):
    """The part of `x` that stays along `axes`, as an index."""
    own = {axis % x.ndim for axis in axes}
    return np.ix_(
        *(
            kept(along) if i in own and along is not None else np.arange(n)
            for i, (n, along) in enumerate(zip(x.shape, labels, strict=True))
        )
    )


def _axes(x, axis):
    if axis is None:
        return tuple(range(x.ndim))
    return tuple(sorted(a % x.ndim for a in (axis if isinstance(axis, (list, tuple)) else (axis,))))


def _in_place(call, x, axis, kept, function):
    """`function(the part that stays, axes)` written where it came from; zero elsewhere."""
    axes = _axes(x, axis)
    places = _staying(x, call.input.axes, axes, kept)
    made = np.zeros(x.shape)
    made[places] = function(x[places].astype("float64"), axes)
    return made


def _by_axes(weight, x, axes):
    return np.asarray(weight, "float64").reshape([n if i in axes else 1 for i, n in enumerate(x.shape)])


def layer_normalization(call, tensors, kept):
    layer, (x,) = call.op, tensors

    def standardise(part, axes):
        mean, variance = part.mean(axes, keepdims=True), part.var(axes, keepdims=True)
        return (part if layer.rms_scaling else part - mean) / np.sqrt(variance + layer.epsilon)

    made, axes = _in_place(call, x, layer.axis, kept, standardise), _axes(x, layer.axis)
    if layer.gamma is not None:
        made = made * _by_axes(layer.gamma, x, axes)
    return made if layer.beta is None else made + _by_axes(layer.beta, x, axes)


def rms_normalization(call, tensors, kept):
    layer, (x,) = call.op, tensors

    def divide(part, axes):
        return part / np.sqrt((part**2).mean(axes, keepdims=True) + layer.epsilon)

    return _in_place(call, x, layer.axis, kept, divide) * _by_axes(layer.scale, x, _axes(x, layer.axis))


def _normalized(call, tensors, kept):
    """`keras.ops.layer_normalization` and `rms_normalization` with constants as scale and offset."""
    op, x = call.op, tensors[0]
    centered, epsilon = hasattr(op, "rms_scaling"), op.epsilon or keras.config.epsilon()

    def standardise(part, axes):
        part = part - part.mean(axes, keepdims=True) if centered else part
        return part / np.sqrt((part**2).mean(axes, keepdims=True) + epsilon)

    made = _in_place(call, x, op.axis, kept, standardise)
    given = (*call.node.arguments.args[1:], *call.node.arguments.kwargs.values())
    scale, offset = (*given, np.zeros(()))[:2]
    return made * np.asarray(scale) + np.asarray(offset)


def group_normalization(call, tensors, kept):
    """Each of the original's groups by itself, over what stays of it."""
    layer, (whole,) = call.op, tensors
    x, axis = whole, layer.axis % whole.ndim
    # The other axes are averaged over too: where they carry channels, over those that stay.
    others = {i: kept(labels) for i, labels in enumerate(call.input.axes) if labels is not None and i != axis}
    for i, places in others.items():
        x = np.take(x, places, axis=i)
    x = np.moveaxis(x, axis, -1).astype("float64")
    labels, width = call.input.axes[axis], x.shape[-1]
    stays = np.zeros(width, bool)
    stays[np.arange(width) if labels is None else kept(labels)] = True
    made = np.zeros(x.shape)
    for group in np.split(np.arange(width), layer.groups):
        group = group[stays[group]]
        if len(group):
            over = tuple(range(1, x.ndim))
            part = x[..., group]
            mean, variance = part.mean(over, keepdims=True), part.var(over, keepdims=True)
            made[..., group] = (part - mean) / np.sqrt(variance + layer.epsilon)
    if layer.gamma is not None:
        made = made * layer.gamma.numpy()
    if layer.beta is not None:
        made = made + layer.beta.numpy()
    result = np.zeros(whole.shape)
    result[np.ix_(*(others.get(i, np.arange(n)) for i, n in enumerate(whole.shape)))] = np.moveaxis(made, -1, axis)
    return result


def unit_normalization(call, tensors, kept):
    def divide(part, axes):
        return part / np.sqrt(np.maximum((part**2).sum(axes, keepdims=True), 1e-12))

    return _in_place(call, tensors[0], call.op.axis, kept, divide)


def _softmax(part, axes):
    e = np.exp(part - part.max(axes, keepdims=True))
    return e / e.sum(axes, keepdims=True)


def _log_softmax(part, axes):
    part = part - part.max(axes, keepdims=True)
    return part - np.log(np.exp(part).sum(axes, keepdims=True))


def _sparsemax(part, axes):
    # Keras's own: it is not the projection onto the simplex that its documentation says (its threshold sums all
    # cumulative sums of the support instead of taking the last), so NumPy has no word on it.
    (axis,) = axes
    return keras.ops.convert_to_numpy(keras.activations.sparsemax(part, axis=axis))


OVER_THE_LAST_AXIS = {"softmax": _softmax, "log_softmax": _log_softmax, "sparsemax": _sparsemax}


def _over_own_axis(function):
    def reference(call, tensors, kept):
        if len(tensors) > 1:
            along = [call.input.axes[a] for a in _axes(tensors[0], call.op.axis)]
            whole = all(x is None or len(kept(x)) == len(x) for x in along)
            assert whole, f"no reference for {call.path} with a mask"
            return keras.ops.convert_to_numpy(call.op(*map(keras.ops.convert_to_tensor, tensors)))
        return _in_place(call, tensors[0], call.op.axis, kept, function)

    return reference


def _name_of_activation(op):
    if isinstance(getattr(type(op), "activation", None), property):
        return None  # a recurrent layer's, which acts inside its loop
    return getattr(getattr(op, "activation", None), "__name__", None)


def _with_its_activation(call, node, known, kept):
    """A layer that ends in a softmax over its channels."""
    function = OVER_THE_LAST_AXIS[_name_of_activation(call.op)]
    saved, call.op.activation = call.op.activation, keras.activations.linear
    try:
        args, kwargs = node.arguments.fill_in(known)
        x = keras.ops.convert_to_numpy(call.op(*args, **kwargs))
    finally:
        call.op.activation = saved
    places = _staying(x, call.outputs[0].axes, [-1], kept)
    made = np.zeros(x.shape)
    made[places] = function(x[places].astype("float64"), (x.ndim - 1,))
    return made


def _reduced(function):
    """An operation that takes one number over its axes: over what stays along them."""

    def reference(call, tensors, kept):
        (x,) = tensors
        axes = _axes(x, call.op.axis)
        part = x[_staying(x, call.input.axes, axes, kept)].astype("float64")
        return function(part, axis=axes, keepdims=call.op.keepdims)

    return reference


def _norm(call, tensors, kept):
    (x,) = tensors
    axes = _axes(x, call.op.axis)
    part = x[_staying(x, call.input.axes, axes, kept)].astype("float64")
    axis = None if call.op.axis is None else axes[0] if len(axes) == 1 else axes
    return np.linalg.norm(part, ord=call.op.ord, axis=axis, keepdims=call.op.keepdims)


def _normalize(call, tensors, kept):
    def divide(part, axes):
        norm = np.linalg.norm(part, ord=call.op.order, axis=axes[0], keepdims=True)
        return part / np.maximum(norm, call.op.epsilon or keras.config.epsilon())

    return _in_place(call, tensors[0], call.op.axis, kept, divide)


def _moments(call, tensors, kept):
    (x,) = tensors
    axes = _axes(x, call.op.axes)
    part = x[_staying(x, call.input.axes, axes, kept)].astype("float64")
    return [f(axis=axes, keepdims=call.op.keepdims) for f in (part.mean, part.var)]


def _log_sum_exp(part, axis, keepdims):
    return np.log(np.exp(part).sum(axis=axis, keepdims=keepdims))


_REDUCTIONS = (
    "Mean", "Max", "Min", "Amax", "Amin", "Var", "Std", "Prod", "Median", "Any", "All", "Ptp", "Nanmean", "Nanmax",
    "Nanmin", "Nanvar", "Nanstd", "Nanprod", "Nanmedian",
)  # fmt: skip

REFERENCES = {
    keras.layers.LayerNormalization: layer_normalization,
    keras.layers.RMSNormalization: rms_normalization,
    keras.layers.GroupNormalization: group_normalization,
    keras.layers.UnitNormalization: unit_normalization,
    keras.layers.Softmax: _over_own_axis(_softmax),
    operations.nn.Softmax: _over_own_axis(_softmax),
    operations.nn.LogSoftmax: _over_own_axis(_log_softmax),
    operations.nn.Sparsemax: _over_own_axis(_sparsemax),
    operations.nn.Normalize: _normalize,
    operations.linalg.Norm: _norm,
    operations.math.Logsumexp: _reduced(_log_sum_exp),
    **{getattr(operations.numpy, name): _reduced(getattr(np, name.lower())) for name in _REDUCTIONS},
    operations.nn.Moments: _moments,
    operations.nn.LayerNorm: _normalized,
    operations.nn.RMSNorm: _normalized,
}


def choose(graph, share, rng):
    """Which units stay when `share` of the free ones of each group goes; something stays on every axis."""
    from tfstruct import graph as graphs

    keep = np.ones(graph.units.count, bool)
    for group in graphs.groups(graph):
        keep[removable(group, share, rng)] = False
    # A slice of a tensor may lose all its channels although its group keeps some.
    axes = [labels for call in graph.calls for t in call.outputs for labels in t.axes if labels is not None]
    axes += [along.labels for slot in graph.slots for along in slot.axes if along is not None]
    while empty := [labels for labels in axes if not graph.units.kept(keep)[labels].any()]:
        for labels in empty:
            keep[np.isin(graph.units.bundle, graph.units.bundle[graph.units.of(labels)])] = True
    return keep


def removable(group, share, rng):
    """Units to remove from a group: `share` of what can go, one at least, never all, balanced over its blocks."""
    sets = atoms(group.free, group.blocks, rng.normal(size=group.units.max() + 1))
    count = min(max(round(len(sets) * share), 1), len(sets) - 1)
    return [unit for atom in sets[: max(count, 0)] for unit in atom]


def assert_pruned_equals_masked(model, share=0.3, seed=0, inputs=None, tolerance=1e-5):
    """Removes `share` of the free channels of every group, and compares with the masked original."""
    from tfstruct import graph as graphs

    graph = graphs.trace(model)
    keep = choose(graph, share, np.random.default_rng(seed))
    smaller, _ = graphs.rebuild(graph, keep)
    expected = [np.asarray(x) for x in masked_outputs(graph, keep, inputs)]
    got = [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(smaller(inputs, training=False))]
    assert_equal(expected, got, tolerance)
    return graph, keep, smaller


def assert_equal(expected, got, tolerance=1e-5):
    """Each output within `tolerance` of the largest value expected there."""
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape
        a, b = a.astype("float64"), b.astype("float64")
        assert np.isfinite(a).all(), "the original's outputs are no numbers: nothing to compare"
        worst = np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-30)
        assert worst <= tolerance, f"differs by {worst:.1e}"


KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")


def share_prunable(model, graph=None):
    """The share of the channels that convolutions and dense layers put out which some free unit removes.

    Counted over every kernel of the model, those of layers that no rule knows too; the model's own outputs aside.
    """
    from tfstruct import graph as graphs

    graph = graphs.trace(model) if graph is None else graph
    can_go = np.zeros(graph.units.count, bool)
    for group in graphs.groups(graph):
        can_go[group.free] = True
    is_output = np.array([graph.units.frozen.get(u) == OUTPUT for u in range(graph.units.count)])
    slots = {id(slot.variable): slot for slot in graph.slots}
    total = free = 0
    for layer in model._flatten_layers(include_self=False):
        for kernel in layer._trainable_variables + layer._non_trainable_variables:
            if kernel.name not in KERNELS:
                continue
            slot = slots.get(id(kernel))
            if slot is None:
                total += kernel.shape[-1]
                continue
            own = [a for a in slot.axes if isinstance(a, graphs.Out)]
            own = own or [a for a in slot.axes if isinstance(a, graphs.Each)]
            here, goes = np.ones(1, bool), np.zeros(1, bool)
            for axis in own:  # a channel of several axes, such as (head, width), goes with any of them
                parts = graph.units.parts[axis.labels]
                here = np.logical_and.outer(here, ~is_output[parts].any(axis=1)).ravel()
                goes = np.logical_or.outer(goes, can_go[parts].any(axis=1)).ravel()
            total += int(here.sum()) if own else kernel.shape[-1]
            free += int((goes & here).sum())
    return free / total if total else 1.0


OUTPUT = "the model's own output"
