"""The oracle of channel surgery: the smaller model computes what the original computes with those channels at zero.

`masked_outputs` runs the original, operation by operation, with every removed channel at zero in every weight and in
every tensor. Operations that take statistics over channels take them over the channels that stay: `REFERENCES` holds
one NumPy function for each of them.
"""

import contextlib
import dataclasses

import keras
import numpy as np

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
            outputs = _run(step, [known[id(x)] for x in node.input_tensors], calls, kept)
        else:
            call = next(calls)
            outputs = _one(call, node, known, kept)
        known.update({id(x): y for x, y in zip(node.outputs, outputs, strict=True)})
    return [known[id(x)] for x in functional.outputs]


def _one(call, node, known, kept):
    reference = REFERENCES.get(type(call.op))
    if reference is not None and any(x is not None for t in call.inputs for x in t.axes):
        made = reference(call, [np.asarray(known[id(x)]) for x in node.arguments.keras_tensors], kept)
    else:
        args, kwargs = node.arguments.fill_in(known)
        made = call.op(*args, **kwargs)
    made = [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(made)]
    return [
        keras.ops.convert_to_tensor(_mask(channels, kept, x)) for channels, x in zip(call.outputs, made, strict=True)
    ]


def _moments_over(call, x, axes, kept, weights):
    """Mean and variance over `axes`, of the channels that stay."""
    stays = np.ones((1,) * x.ndim)
    for axis in axes:
        labels = call.input.axes[axis]
        if labels is not None:
            one = np.zeros(x.shape[axis])
            one[kept(labels)] = 1
            stays = stays * one.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    stays = np.broadcast_to(stays, x.shape)
    total = stays.sum(axis=axes, keepdims=True)
    mean = (x * stays).sum(axis=axes, keepdims=True) / total
    return mean, (((x - mean) ** 2) * stays).sum(axis=axes, keepdims=True) / total


def layer_normalization(call, tensors, kept):
    (x,) = tensors
    layer = call.op
    axes = tuple(a % x.ndim for a in (layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]))
    mean, variance = _moments_over(call, x, axes, kept, None)
    y = (x - mean) / np.sqrt(variance + layer.epsilon)
    shape = [n if i in axes else 1 for i, n in enumerate(x.shape)]
    if layer.scale:
        y = y * layer.gamma.numpy().reshape(shape)
    return y + layer.beta.numpy().reshape(shape) if layer.center else y


REFERENCES = {keras.layers.LayerNormalization: layer_normalization}


def assert_pruned_equals_masked(model, share=0.3, seed=0, inputs=None, tolerance=1e-5):
    """Removes `share` of the free channels of every group, and compares with the masked original."""
    from tfstruct import graph as graphs

    graph = graphs.trace(model)
    keep = np.ones(graph.units.count, bool)
    rng = np.random.default_rng(seed)
    for group in graphs.groups(graph):
        for unit in removable(group, share, rng):
            keep[unit] = False
    smaller, _ = graphs.rebuild(graph, keep)
    expected = masked_outputs(graph, keep, inputs)
    got = [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(smaller(inputs, training=False))]
    for a, b in zip(expected, got, strict=True):
        a = np.asarray(a)
        assert a.shape == b.shape
        scale = max(np.abs(a).max(), 1e-30)
        assert np.abs(a - b).max() <= tolerance * scale, f"differs by {np.abs(a - b).max() / scale:.1e}"
    return graph, keep, smaller


def removable(group, share, rng):
    """Units to remove from a group: `share` of the free ones, balanced over its blocks, never all."""
    from tfstruct.graph.blocks import atoms

    sets = atoms(group.free, group.blocks, rng.normal(size=group.units.max() + 1))
    return [unit for atom in sets[: min(round(len(sets) * share), len(sets) - 1)] for unit in atom]


def over_what_stays(call, tensors, kept):
    """The operation on the channels that stay, put back in their places among zeros."""
    (x,) = tensors
    for axis, labels in enumerate(call.input.axes):
        if labels is not None:
            x = np.take(x, kept(labels), axis=axis)
    made = [np.asarray(keras.ops.convert_to_numpy(y)) for y in keras.tree.flatten(call.op(x))]
    for n, channels in enumerate(call.outputs):
        for axis, labels in enumerate(channels.axes):
            if labels is not None:
                wide = np.zeros((*made[n].shape[:axis], len(labels), *made[n].shape[axis + 1 :]), made[n].dtype)
                wide[(slice(None),) * axis + (kept(labels),)] = made[n]
                made[n] = wide
    return made


def _over_what_stays():
    from tfstruct.graph.rules.arguments import named

    names = """
        Softmax LogSoftmax Sparsemax Normalize Mean Max Min Amax Amin Std Var Prod All Median Ptp Logsumexp Nanmean
        Nanmax Nanmin Nanstd Nanvar Nanprod Nanmedian Norm Moments
    """
    return dict.fromkeys(named(*names.split()), over_what_stays)


REFERENCES.update(_over_what_stays())
