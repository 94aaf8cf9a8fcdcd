"""Layers that treat every element alone, or join tensors element by element."""

import keras
import numpy as np
from keras import layers

from tfstruct.graph.call import Axes, Call, Channels, Each
from tfstruct.graph.operation_traits import function_traits
from tfstruct.graph.rules.registry import rule

_ACTIVATIONS = [layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU]
_SAME = [layers.ActivityRegularization, layers.Identity]


@rule(*_ACTIVATIONS, *_SAME)
def alone(call: Call) -> Axes:
    activation(call, getattr(call.op, "activation", None), call.input.axes[-1])
    shape = getattr(call.op, "noise_shape", None)
    if shape is not None:
        for n, labels in zip(shape, call.input.axes, strict=True):
            if n not in (None, 1):
                call.freeze(labels, f"{call.path} has a fixed noise_shape")
    call.in_place = True
    return call.input.axes


def activation(call: Call, function, last: np.ndarray | None) -> None:
    """Notes what an activation function does to the channels of the last axis."""
    name = getattr(function, "__name__", type(function).__name__)
    if function_traits(function).statistics:
        call.statistics(last)
        call.sums(last)
    elif name == "glu":
        call.freeze(last, f"{call.path} gates one half of the channels by the other (glu)")
    elif function is None or getattr(keras.activations, name, None) is not None or last is None:
        return
    elif not _passes_each(call, function, name, last):
        call.freeze(last, f"{call.path} has an activation of its own ({name}), which may look across channels")


def _passes_each(call: Call, function, name: str, labels: np.ndarray) -> bool:
    """Whether a function of the user's, recorded on a symbolic tensor, consists of operations that let these channels
    pass, each in its place, without constants for them. What the operations' rules note holds for the channels."""
    try:
        inputs = keras.Input((len(labels),))
        model = keras.Model(inputs, function(inputs))
        inside = call.enter(model, name, [Channels((None, len(labels)), (None, labels), -1)])
    except Exception:  # a user's code may raise anything on symbolic tensors
        return False
    if any(step.edits or step.argument_edits or step.rewrite is not None or step.slots for step in inside.calls):
        return False
    return len(inside.outputs) == 1 and np.array_equal(inside.outputs[0].axes[-1], labels)


@rule(layers.Softmax)
def softmax(call: Call) -> Axes:
    axes = call.op.axis if isinstance(call.op.axis, (list, tuple)) else (call.op.axis,)
    for axis in axes:
        call.statistics(call.input.axes[axis])
        call.sums(call.input.axes[axis])
    return call.input.axes


@rule(layers.PReLU)
def prelu(call: Call) -> Axes:
    shared = call.op.shared_axes or []
    own = [None if i in shared else labels for i, labels in enumerate(call.input.axes)]
    call.weight(call.op.alpha, *(Each(labels) for labels in own[1:]))
    call.in_place = True
    return call.input.axes


@rule(layers.Rescaling)
def rescaling(call: Call) -> Axes:
    for name in ("scale", "offset"):
        value = np.asarray(getattr(call.op, name))
        last = call.input.axes[-1]
        if value.ndim == 1 and value.size > 1 and last is not None:
            call.set(name, lambda kept, value=value, last=last: value[kept(last)].tolist())
        elif value.ndim > 1:
            call.freeze_inputs(f"{call.path} rescales by an array of {value.ndim} axes")
    call.in_place = True
    return call.input.axes


@rule(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
def merge(call: Call) -> Axes:
    return call.elementwise()


@rule(layers.Masking)
def masking(call: Call) -> Axes:
    call.freeze(call.input.axes[-1], f"{call.path} compares whole vectors with a value")
    return call.input.axes
