"""Layers that sum over channels, all seen as one thing: a kernel of shape (taps, in, out), in groups.

result[o] = bias[o] + sum over taps t and channels c of kernel[t, c, o] * x[c]
"""

import dataclasses

import numpy as np
from keras import layers, ops

from tfstruct.graph.call import Call
from tfstruct.graph.kinds import kind_of
from tfstruct.graph.operation_traits import layers_with
from tfstruct.graph.rules.contractions import channel_axis

CONVS, TRANSPOSED = layers_with("conv"), layers_with("transposed")
DEPTHWISE, SEPARABLE = layers_with("depthwise"), layers_with("separable")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Reads weights as arrays in which |w| <= `tolerance` counts as zero."""

    tolerance: float = 0.0

    def __call__(self, variable) -> np.ndarray:
        value = ops.convert_to_numpy(variable)
        if value.dtype != np.float64:
            value = value.astype(np.float32)
        if self.tolerance:
            value = np.where(np.abs(value) <= self.tolerance, np.zeros((), value.dtype), value)
        return value


def plain(call: Call, *kinds: type) -> bool:
    """Whether the layer is of these types, computes as they do, and holds its kernel itself."""
    op = call.op
    if kind_of(op, kinds) is None:
        return False
    return not getattr(op, "lora_enabled", False) and not getattr(op, "quantization_mode", None)


def depthwise_by_groups(call: Call) -> bool:
    """A convolution of one channel a group: the graph takes it as depthwise, unless it reads the model's input."""
    if not plain(call, *CONVS) or call.op.groups == 1:
        return False
    axis = channel_axis(call.op, call.input.rank)
    return call.op.groups == call.input.shape[axis] and call.input.axes[axis] is not None


@dataclasses.dataclass(frozen=True)
class Contraction:
    """Attributes:
    axis, out_axis: where the channels are, in the input and in the output.
    groups: each sums over its own channels.
    repeat: channels between the two halves of a separable convolution, for each that comes in.
    pads: the kernel meets zeros that are not in the tensor: beyond its border, or between its elements.
    """

    call: Call
    axis: int
    out_axis: int
    groups: int = 1
    repeat: int = 1
    pads: bool = False

    @property
    def labels(self) -> np.ndarray | None:
        """Of the channels summed over."""
        labels = self.call.input.axes[self.axis]
        return None if labels is None else np.repeat(labels, self.repeat)

    def kernel(self, read: Weights) -> np.ndarray:
        """Shape (taps, in, out); `in` is that of one group."""
        op = self.call.op
        value = read(op.pointwise_kernel if isinstance(op, SEPARABLE) else op.kernel)
        value = value.reshape(-1, *value.shape[-2:])
        return np.swapaxes(value, 1, 2) if isinstance(op, TRANSPOSED) else value

    def summed(self, x: np.ndarray, read: Weights) -> np.ndarray:
        """What the channels `x` that are known and not zero contribute to each output, without a bias."""
        kernel = self.kernel(read)
        outs = kernel.shape[2] // self.groups
        result = np.zeros(kernel.shape[2])
        for g, part in enumerate(x.reshape(self.groups, -1)):
            rows = np.flatnonzero(~np.isnan(part) & (part != 0))
            own = kernel[:, rows, g * outs : (g + 1) * outs].sum(0, dtype=np.float64)
            result[g * outs : (g + 1) * outs] = part[rows] @ own
        return result

    def reads(self, rows: np.ndarray, read: Weights) -> np.ndarray:
        """Shape (rows, out): whether that channel reaches that output with a weight that is not zero."""
        kernel = self.kernel(read)
        ins, outs = kernel.shape[1], kernel.shape[2] // self.groups
        result = np.zeros((len(rows), kernel.shape[2]), bool)
        for g in range(self.groups):
            of = np.flatnonzero(rows // ins == g)
            part = kernel[:, rows[of] % ins, g * outs : (g + 1) * outs]
            result[of, g * outs : (g + 1) * outs] = (part != 0).any(0)
        return result


def contraction(call: Call) -> Contraction | None:
    """The call as a contraction, or None where it is none (or another kind)."""
    layer = call.op
    if plain(call, layers.Dense):
        return Contraction(call, call.input.rank - 1, len(call.shapes[0]) - 1)
    if not plain(call, *CONVS, *TRANSPOSED, *SEPARABLE) or depthwise_by_groups(call):
        return None
    axis = channel_axis(layer, call.input.rank)
    if isinstance(layer, SEPARABLE):
        # The padding is met by the depthwise half.
        return Contraction(call, axis, axis, repeat=layer.depth_multiplier)
    if isinstance(layer, TRANSPOSED):
        alone = all(n == 1 for n in (*layer.kernel_size, *layer.strides))
        return Contraction(call, axis, axis, pads=not alone)
    return Contraction(call, axis, axis, groups=layer.groups, pads=pads(call))


def pads(call: Call) -> bool:
    """Whether a convolution's kernel reaches over the border of this input."""
    layer = call.op
    if layer.padding == "valid" or all(k == 1 for k in layer.kernel_size):
        return False
    if layer.padding == "causal":
        return True
    axis = channel_axis(layer, call.input.rank)
    sizes = [n for i, n in enumerate(call.input.shape) if i not in (0, axis)]
    for n, k, stride, dilation in zip(sizes, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True):
        if n is None:
            return k > 1
        if (-(-n // stride) - 1) * stride + (k - 1) * dilation + 1 > n:
            return True
    return False
