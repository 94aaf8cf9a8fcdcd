"""The layers that stand for a factorized one: their configurations, weights and multiply-accumulates."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from keras import layers

from tfstruct.graph import Call
from tfstruct.graph.rules.contractions import channel_axis
from tfstruct.surgery.factor.kernels import Stage

_DEPTHWISE = {1: layers.DepthwiseConv1D, 2: layers.DepthwiseConv2D}


def build(layer, stages: Sequence[Stage], kernels: Sequence[np.ndarray], named: Callable[[str], str]) -> Callable:
    """A function that runs the factors of a layer, made on its first call; later calls share them.

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
        for stage, kernel in zip(stages, kernels, strict=True):
            before = _causal_padding(layer, stage, named)
            one = _layer(layer, stage, named)
            for new in (*before, one):
                x = new(x)
                new.trainable = layer.trainable
                made.append(new)
            biases = [layer.bias] if one.use_bias else []
            one.set_weights([kernel, *(np.asarray(bias) for bias in biases)])
        return x

    return run


def _layer(layer, stage: Stage, named) -> layers.Layer:
    config = layer.get_config()
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
        "strides": tuple(n if i in stage.axes else 1 for i, n in enumerate(layer.strides)),
        "dilation_rate": tuple(n if i in stage.axes else 1 for i, n in enumerate(layer.dilation_rate)),
        "padding": layer.padding if stage.axes else "valid",
    }
    if not stage.depthwise:
        return type(layer).from_config({**config, **at, "filters": stage.kernel[-1]})
    if at["padding"] == "causal":
        at["padding"] = "valid"
    return _DEPTHWISE[len(stage.kernel) - 2](
        **at,
        depth_multiplier=stage.kernel[-1],
        data_format=layer.data_format,
        use_bias=False,
        depthwise_regularizer=config["kernel_regularizer"],
        name=config["name"],
        dtype=layer.dtype_policy,
    )


def _causal_padding(layer, stage: Stage, named) -> list[layers.Layer]:
    """Depthwise layers have no causal padding of their own."""
    if not stage.depthwise or layer.padding != "causal":
        return []
    reach = (stage.kernel[0] - 1) * layer.dilation_rate[0]
    name = named(f"{layer.name}_pad")
    return [layers.ZeroPadding1D((reach, 0), data_format=layer.data_format, name=name, dtype=layer.dtype_policy)]


def macs_of(call: Call, stages: Sequence[Stage]) -> float:
    """Multiply-accumulates of the factors for one sample of this call; NaN where sizes are open."""
    shape, layer = call.input.shape, call.op
    if isinstance(layer, layers.Dense):
        sizes = [math.nan if n is None else n for n in shape[1:-1]]
        return math.prod(sizes) * sum(stage.size for stage in stages)
    axis = channel_axis(layer, call.input.rank)
    sizes = [math.nan if n is None else n for i, n in enumerate(shape) if i not in (0, axis)]
    total = 0.0
    for stage in stages:
        for i in stage.axes:
            span = (stage.kernel[i] - 1) * layer.dilation_rate[i] if layer.padding == "valid" else 0
            n = (sizes[i] - span) / layer.strides[i]
            sizes[i] = n if math.isnan(n) else math.ceil(n)
        total += math.prod(sizes) * stage.size
    return total
