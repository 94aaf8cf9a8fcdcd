"""The layers that replace a factorized one: configurations, weights and multiply-accumulates."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from keras import layers

from tfstruct.errors import PlanError
from tfstruct.graph import Call
from tfstruct.graph.configured import functions_known
from tfstruct.graph.rules.contractions import channel_axis
from tfstruct.surgery.factor.factors import FactorLayer

_DEPTHWISE = {1: layers.DepthwiseConv1D, 2: layers.DepthwiseConv2D}
_OPEN = "its depthwise factors cannot have its strides, and how to pad them depends on sizes that are open"
_PADDING = {1: layers.ZeroPadding1D, 2: layers.ZeroPadding2D}


def build(layer, stages: Sequence[FactorLayer], kernels: Sequence[np.ndarray], named: Callable[[str], str]) -> Callable:
    """Returns a function that runs the factors of a layer; they are made on its first call and shared by later ones.

    The last has the layer's name, bias and activation. Kernel regularizers go to every factor, constraints to none.

    Args:
        named: a free name from a wanted one.
    """
    made: list[layers.Layer] = []

    def run(x):
        if made:
            for one in made:
                x = one(x)
            return x
        for stage, kernel, at in zip(stages, kernels, _places(layer, stages, x.shape), strict=True):
            one = _layer(layer, stage, at, named)
            for new in (*_zeros(layer, at, named), one):
                x = new(x)
                new.trainable = layer.trainable
                made.append(new)
            biases = [layer.bias] if one.use_bias else []
            one.set_weights([kernel, *(np.asarray(bias) for bias in biases)])
        return x

    return run


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a factor is applied: its strides, dilation and padding.

    Attributes:
        zeros: (before, after) by axis, put around by a layer of its own; empty for none.
    """

    strides: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: str = "valid"
    zeros: tuple[tuple[int, int], ...] = ()


def _places(layer, stages: Sequence[FactorLayer], shape) -> list[_Place]:
    """The place of each factor, for an input of the given shape.

    Strides that TensorFlow's CPU kernels refuse of a depthwise stage go to the next one, which has one tap there: the
    stage makes all positions, padded as for its strides. Those over an axis of one tap are for the first to take.
    """
    if isinstance(layer, layers.Dense):
        return [_Place() for _ in stages]
    axis = channel_axis(layer, len(shape))
    sizes = [n for i, n in enumerate(shape) if i not in (0, axis)]
    ones = (1,) * len(sizes)
    slid = {i for stage in stages for i in stage.axes}
    found: list[_Place] = []
    owed = tuple(1 if i in slid else n for i, n in enumerate(layer.strides))
    for stage in stages:
        strides = tuple(owed[i] * (n if i in stage.axes else 1) for i, n in enumerate(layer.strides))
        dilation = tuple(n if i in stage.axes else 1 for i, n in enumerate(layer.dilation_rate))
        zeros: tuple[tuple[int, int], ...] = ()
        padding, owed = layer.padding if stage.axes else "valid", ones
        spans = [(k - 1) * d for k, d in zip(stage.kernel, dilation, strict=False)]
        if stage.depthwise and padding == "causal":  # which depthwise layers do not have
            padding, zeros = "valid", ((spans[0], 0),)
        elif stage.depthwise and len(set(strides)) > 1:
            owed, strides = strides, ones
            if padding == "same":
                zeros = tuple(_same(n, span, s) for n, span, s in zip(sizes, spans, owed, strict=True))
                if all(before == span // 2 for (before, _), span in zip(zeros, spans, strict=True)):
                    zeros = ()
                else:
                    padding = "valid"
        found.append(_Place(strides, dilation, padding, zeros))
    return found


def _same(size: int | None, span: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis for padding `same`."""
    if span == 0 or stride == 1:
        missing = span
    elif size is None:
        raise PlanError(_OPEN)
    else:
        missing = max((-(-size // stride) - 1) * stride + span + 1 - size, 0)
    return missing // 2, missing - missing // 2


def misplaced(calls: Sequence[Call], stages: Sequence[FactorLayer]) -> str | None:
    """Reason why the factors cannot run in all calls of a layer, or None."""
    try:
        places = [_places(call.op, stages, call.input.shape) for call in calls]
    except PlanError as error:
        return str(error)
    if any(other != places[0] for other in places):
        return "its depthwise factors cannot have its strides, and its calls need them padded differently"
    return None


def _layer(layer, stage: FactorLayer, place: _Place, named) -> layers.Layer:
    with functions_known(layer):
        return _layer_of(layer, layer.get_config(), stage, place, named)


def _layer_of(layer, config: dict, stage: FactorLayer, place: _Place, named) -> layers.Layer:
    config |= {"kernel_initializer": "glorot_uniform", "kernel_constraint": None}
    if stage.suffix:
        config |= {
            "name": named(layer.name + stage.suffix), "use_bias": False, "activation": "linear",
            "activity_regularizer": None, "bias_regularizer": None, "bias_constraint": None,
        }  # fmt: skip
    if isinstance(layer, layers.Dense):
        return type(layer).from_config({**config, "units": stage.kernel[-1]})
    at = {
        "kernel_size": stage.kernel[:-2],
        "strides": place.strides,
        "dilation_rate": place.dilation,
        "padding": place.padding,
    }
    if not stage.depthwise:
        return type(layer).from_config({**config, **at, "filters": stage.kernel[-1]})
    return _DEPTHWISE[len(stage.kernel) - 2](
        **at,
        depth_multiplier=stage.kernel[-1],
        data_format=layer.data_format,
        use_bias=False,
        depthwise_regularizer=config["kernel_regularizer"],
        name=config["name"],
        dtype=layer.dtype_policy,
    )


def _zeros(layer, place: _Place, named) -> list[layers.Layer]:
    if not place.zeros:
        return []
    rank = len(place.zeros)
    zeros = place.zeros[0] if rank == 1 else place.zeros
    name = named(f"{layer.name}_pad")
    return [_PADDING[rank](zeros, data_format=layer.data_format, name=name, dtype=layer.dtype_policy)]


def macs_of(call: Call, stages: Sequence[FactorLayer]) -> float:
    """Multiply-accumulates of the factors for one sample of this call; NaN where sizes are open."""
    shape, layer = call.input.shape, call.op
    if isinstance(layer, layers.Dense):
        sizes = [math.nan if n is None else n for n in shape[1:-1]]
        return math.prod(sizes) * sum(stage.size for stage in stages)
    axis = channel_axis(layer, call.input.rank)
    sizes = [math.nan if n is None else n for i, n in enumerate(shape) if i not in (0, axis)]
    total = 0.0
    for stage, place in zip(stages, _places(layer, stages, shape), strict=True):
        for i, zeros in enumerate(place.zeros):
            sizes[i] += sum(zeros)
        for i, (taps, stride, dilation) in enumerate(
            zip(stage.kernel[:-2], place.strides, place.dilation, strict=True)
        ):
            n = (sizes[i] - ((taps - 1) * dilation if place.padding == "valid" else 0)) / stride
            sizes[i] = n if math.isnan(n) else math.ceil(n)
        total += math.prod(sizes) * stage.size
    return total
