"""Which operator of a file a call of a Keras layer with a kernel becomes."""

import dataclasses
import math

from tfstruct.convert.kernel_operator import NAMES, KernelOperator
from tfstruct.graph import Call
from tfstruct.graph.operation_traits import traits_of

_VALID = 1  # the schema's number of padding="valid"; that of "same" is 0


def operator_of_call(call: Call) -> KernelOperator | None:
    """The int8 operator of a dense or a convolution layer, with the biases that it gets in a file even where the layer
    has none; None for a call of another kind, or of open sizes."""
    traits = traits_of(call.op)
    name = traits.operator
    if name not in NAMES or not traits.one_kernel:
        return None
    sizes = tuple(call.op.kernel.shape)
    read, made = (_sizes(tensor.shape) for tensor in (call.input, call.outputs[0]))
    if not read or not made:
        return None
    if traits.kernel == "dense":
        lead = [math.prod(read[:-1])]
        return KernelOperator(name, (*lead, read[-1]), (sizes[1], sizes[0]), (*lead, made[-1]), scales=sizes[1])
    if len(read) == 3:  # a convolution along one axis is one over an area of height 1
        read, made, sizes = (1, 1, *read[1:]), (1, 1, *made[1:]), (1, *sizes)
    taps, last = sizes[:-2], sizes[-2:]
    kernel = {
        "conv": (last[1], *taps, last[0]),
        "depthwise": (1, *taps, last[0] * last[1]),
        "transposed": (last[0], *taps, last[1]),
    }[traits.kernel]
    options = _options(call.op, len(taps))
    if traits.kernel == "depthwise":
        options["depthMultiplier"] = last[1]
    outputs = kernel[-1] if traits.kernel == "depthwise" else kernel[0]
    return KernelOperator(name, read, kernel, made, tuple(sorted(options.items())), scales=outputs)


def moved(operator: KernelOperator, before: Call, after: Call) -> KernelOperator:
    """An operator of a file on the positions, and with the strides, that its layer has in another model.

    Args:
        operator: of the file.
        before, after: the layer's call in the model of the file, and in the other.
    """
    if len(operator.input) != 4 or after.input.rank != 4:
        return operator
    options = dict(operator.options)
    if "strideH" in options and before.op.strides != after.op.strides:
        now = _options(after.op, 2)
        options |= {name: now[name] for name in ("strideH", "strideW")}
        operator = dataclasses.replace(operator, options=tuple(sorted(options.items())))
    height, width = after.input.shape[1:3]
    # Where the file pads by an operator of its own, it has other positions than the layer: these stay.
    same = operator.input[1:3] == tuple(before.input.shape[1:3])
    return operator.resized(positions=(height, width)) if same and height and width else operator


def _options(layer, rank: int) -> dict[str, int]:
    strides, dilation = ((1,) * (rank - len(own)) + tuple(own) for own in (layer.strides, layer.dilation_rate))
    found = {"strideH": strides[0], "strideW": strides[1]}
    changed = {"dilationHFactor": dilation[0], "dilationWFactor": dilation[1]}
    found |= {name: value for name, value in changed.items() if value != 1}
    return {**found, "padding": _VALID} if layer.padding != "same" else found


def _sizes(shape) -> tuple[int, ...]:
    """Of one sample; empty where one is open."""
    return () if None in shape[1:] else (1, *(int(size) for size in shape[1:]))
