"""Layers that are linear in their input, as arrays: an affine map by channel before or behind one, put into it.

Weights are float64 arrays by attribute. `scale` and `shift` are by channel: y = x * scale + shift.
"""

import dataclasses

import numpy as np
from keras import activations, layers, ops

from tfstruct.graph.call import Call
from tfstruct.graph.contraction import DEPTHWISE, SEPARABLE, TRANSPOSED, pads, plain
from tfstruct.graph.operation_traits import layers_with
from tfstruct.graph.rules.contractions import channel_axis, subscripts
from tfstruct.graph.wiring import Unfit

LINEAR = layers_with("dense", "einsum", "conv", "transposed", "depthwise", "separable")

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Affine:
    """y = x * scale + shift, by channel."""

    scale: np.ndarray
    shift: np.ndarray

    @property
    def shifts(self) -> bool:
        return bool((self.shift != 0).any())


def is_linear(call: Call) -> bool:
    """Whether the layer is one of those here, its activation aside."""
    return plain(call, *LINEAR)


def has_activation(call: Call) -> bool:
    """Whether the layer ends in a nonlinearity."""
    return call.op.activation not in (None, activations.linear)


def check_no_activation(call: Call) -> None:
    """Raises Unfit where it does."""
    if has_activation(call):
        activation = call.op.activation
        raise Unfit(f"`{call.path}` has the activation {getattr(activation, '__name__', activation)}")


def arrays(op) -> Arrays:
    """The weights by attribute; `bias` is missing where there is none."""
    names = ("depthwise_kernel", "pointwise_kernel", "bias") if isinstance(op, SEPARABLE) else ("kernel", "bias")
    found = {name: getattr(op, name) for name in names}
    return {name: ops.convert_to_numpy(v).astype("float64") for name, v in found.items() if v is not None}


def norm_arrays(norm: layers.BatchNormalization) -> Arrays:
    """The weights of a batch normalization by attribute, also those that it leaves out."""
    mean, variance = (ops.convert_to_numpy(v).astype("float64") for v in (norm.moving_mean, norm.moving_variance))
    gamma = np.ones_like(mean) if norm.gamma is None else ops.convert_to_numpy(norm.gamma).astype("float64")
    beta = np.zeros_like(mean) if norm.beta is None else ops.convert_to_numpy(norm.beta).astype("float64")
    return {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": variance}


def bias_config(op, values: Arrays) -> dict[str, object]:
    """What the configuration needs for the bias among the values."""
    if isinstance(op, layers.EinsumDense) or "bias" not in values:
        return {}
    return {"use_bias": True}


def axes(call: Call) -> tuple[int, int]:
    """Where the channels are in the input and in the output."""
    rank, out = call.input.rank, len(call.shapes[0])
    if isinstance(call.op, layers.Dense):
        return rank - 1, out - 1
    axis = channel_axis(call.op, rank)
    return axis, axis


def behind(call: Call, values: Arrays, affine: Affine, axis: int) -> tuple[Arrays, dict[str, object]]:
    """The layer's weights, and changes of its configuration, with `affine` on axis `axis` of its output put into it.

    kernel' = kernel * scale, bias' = bias * scale + shift.
    """
    op, values, scale = call.op, dict(values), affine.scale
    if isinstance(op, layers.EinsumDense):
        return _einsum_behind(call, values, affine, axis)
    if axis != axes(call)[1]:
        raise Unfit(f"it normalizes axis {axis}, not the channels of `{call.path}`")
    if isinstance(op, TRANSPOSED):
        values["kernel"] = values["kernel"] * scale[:, None]
    elif isinstance(op, DEPTHWISE):
        values["kernel"] = values["kernel"] * scale.reshape(values["kernel"].shape[-2:])
    else:
        name = "pointwise_kernel" if isinstance(op, SEPARABLE) else "kernel"
        values[name] = values[name] * scale
    values["bias"] = values.get("bias", 0.0) * scale + affine.shift
    return values, bias_config(op, values)


def before(call: Call, values: Arrays, affine: Affine, axis: int) -> tuple[Arrays, dict[str, object]]:
    """The same for an `affine` on axis `axis` of its input.

    kernel'[t, i, o] = kernel[t, i, o] * scale[i], bias'[o] = bias[o] + sum over t and i of kernel[t, i, o] * shift[i].
    The second is wrong where the kernel meets padding, which is not shifted.
    """
    op, values = call.op, dict(values)
    if isinstance(op, layers.EinsumDense):
        return _einsum_before(call, values, affine, axis)
    if axis != axes(call)[0]:
        raise Unfit(f"it normalizes axis {axis}, not the channels that `{call.path}` sums over")
    if affine.shifts:
        alone = not isinstance(op, TRANSPOSED) or all(n == 1 for n in (*op.kernel_size, *op.strides))
        if not alone or (not isinstance(op, (layers.Dense, *TRANSPOSED)) and pads(call)):
            raise Unfit(f"`{call.path}` pads its input with zeros, which the shift would miss")
        values["bias"] = values.get("bias", 0.0) + _summed(op, values, affine.shift)
    scale = affine.scale
    if isinstance(op, SEPARABLE):
        values["depthwise_kernel"] = values["depthwise_kernel"] * scale[:, None]
    elif isinstance(op, (layers.Dense, *DEPTHWISE)):
        values["kernel"] = values["kernel"] * scale[:, None]
    elif isinstance(op, TRANSPOSED):
        values["kernel"] = values["kernel"] * scale
    else:
        values["kernel"] = values["kernel"] * _by_group(scale, values["kernel"].shape[-1], op.groups)
    return values, bias_config(op, values)


def _by_group(x: np.ndarray, outs: int, groups: int) -> np.ndarray:
    """Shape (channels of one group, outs): x by the channels that each output sums over."""
    return np.repeat(x.reshape(groups, -1), outs // groups, axis=0).T


def _summed(op, values: Arrays, x: np.ndarray) -> np.ndarray:
    """What constant channels contribute to each output."""
    if isinstance(op, SEPARABLE):
        kernel, pointwise = values["depthwise_kernel"], values["pointwise_kernel"]
        middle = kernel.reshape(-1, *kernel.shape[-2:]).sum(0) * x[:, None]
        return middle.ravel() @ pointwise.reshape(pointwise.shape[-2:])
    kernel = values["kernel"]
    kernel = kernel.reshape(-1, *kernel.shape[-2:]).sum(0)
    if isinstance(op, DEPTHWISE):
        return (kernel * x[:, None]).ravel()
    if isinstance(op, TRANSPOSED):
        return kernel @ x
    if isinstance(op, layers.Dense):
        return x @ kernel
    return (kernel * _by_group(x, kernel.shape[-1], op.groups)).sum(0)


# Einsums: axes by letter. The bias has the output's last axes, of size 1 where it is repeated.


def _einsum_behind(call: Call, values: Arrays, affine: Affine, axis: int):
    _, letters, out = subscripts(call.op.equation, call.input.rank)
    letter = out[axis]
    if letter not in letters:
        raise Unfit(f"it normalizes axis {axis}, which the kernel of `{call.path}` lacks")
    values["kernel"] = values["kernel"] * _along(affine.scale, letter, letters)
    if "bias" in values:
        values["bias"] = _full(values["bias"], out) * _along(affine.scale, letter, out)
    return _with_einsum_bias(call, values, affine.shift, letter, out)


def _einsum_before(call: Call, values: Arrays, affine: Affine, axis: int):
    came, letters, out = subscripts(call.op.equation, call.input.rank)
    letter = came[axis]
    if letter not in letters:
        raise Unfit(f"it normalizes axis {axis}, which the kernel of `{call.path}` lacks")
    kernel = values["kernel"]
    values["kernel"] = kernel * _along(affine.scale, letter, letters)
    if not affine.shifts:
        return values, {}
    if any(x not in letters for x in came if x not in out):
        raise Unfit(f"`{call.path}` sums over axes that its kernel lacks")
    left = "".join(x for x in out if x in letters)
    added = np.einsum(f"{letters},{letter}->{left}", kernel, affine.shift)
    return _with_einsum_bias(call, values, added, left, out)


def _with_einsum_bias(call: Call, values: Arrays, added: np.ndarray, letters: str, out: str):
    """`added` has the axes `letters` of the output, in its order."""
    op = call.op
    if not added.any():
        return values, {}
    own = letters if op.bias is None else op.bias_axes
    if any(x not in own for x in letters) or any(x not in op.equation for x in letters):
        raise Unfit(f"the bias of `{call.path}` lacks axes that the shift has")
    sizes = iter(added.shape)
    added = added.reshape([next(sizes) if x in letters else 1 for x in out])
    values["bias"] = (_full(values["bias"], out) if "bias" in values else 0.0) + added
    return values, {"bias_axes": letters} if op.bias is None else {}


def _along(x: np.ndarray, letter: str, letters: str) -> np.ndarray:
    return x.reshape([-1 if one == letter else 1 for one in letters])


def _full(bias: np.ndarray, out: str) -> np.ndarray:
    return bias.reshape((1,) * (len(out) - bias.ndim) + bias.shape)
