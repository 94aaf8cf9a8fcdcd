"""Convolutions of `keras.ops`: the kernel is a tensor or a constant, such as a layer's weight times a mask."""

import math

import numpy as np

from tfstruct.graph.call import Axes, Call, Channels
from tfstruct.graph.rules.arguments import adopt, given, operands
from tfstruct.graph.rules.contractions import channel_axis
from tfstruct.graph.rules.registry import rule
from tfstruct.keras_internals.operation_types import operations


@rule(*operations("Conv DepthwiseConv"))
def convolution(call: Call) -> Axes:
    """Kernels of shape (*taps, in, out), depthwise (*taps, in, multiplier)."""
    found, depthwise = operands(call, given(call)[:2]), type(call.op).__name__ == "DepthwiseConv"
    if found is None or len(found) != 2 or not isinstance(found[0][1], Channels) or found[0][2] is not None:
        call.freeze_inputs(f"{call.path} takes arguments that no rule knows")
        return call.untouched()[0]
    (_, x, _), (key, kernel, constant) = found
    axis = channel_axis(call.op, x.rank)
    taps, per, width = kernel.shape[:-2], kernel.shape[-1], x.shape[axis]
    for i, labels in enumerate(x.axes):
        if i != axis:
            call.freeze(labels, f"{call.path} slides over it")
    if kernel.shape[-2] != width or per is None:
        call.freeze_inputs(f"{call.path} convolves groups of channels")
        return call.untouched()[0]
    if constant is not None:
        own: list[np.ndarray | None] = [None] * kernel.rank
        own[-2] = x.axes[axis]
        if not depthwise and per != 1:
            own[-1] = call.fresh(per, "constant", listed=False)
        kernel = adopt(call, key, constant, own)
    for labels in kernel.axes[:-2]:
        call.freeze(labels, f"{call.path} slides it")
    came = call.unite(x.axes[axis], kernel.axes[-2])
    made = kernel.axes[-1]
    if depthwise:
        call.freeze(made, f"{call.path} makes several channels of each")
        made = None if came is None else np.repeat(came, per)
    else:
        call.sums(came)
    sizes = [*(n for i, n in enumerate(call.shapes[0]) if i not in (0, axis)), *taps]
    sizes += [] if came is not None or depthwise else [width]
    sizes += [] if made is not None else [call.shapes[0][axis]]
    known = [n for n in sizes if n is not None]
    call.macs(math.prod(known) if len(known) == len(sizes) else None, *(() if depthwise else (came,)), made)
    return tuple(made if i == axis else None for i in range(x.rank))
