"""The layers that `keras.applications` define for themselves, and the rarer layers of Keras."""

import numpy as np
from keras import layers

from tfstruct.graph.call import Axes, Call, Each, In, Out
from tfstruct.graph.rules.contractions import channel_axis
from tfstruct.graph.rules.movement import keep_only
from tfstruct.graph.rules.registry import rule
from tfstruct.keras_internals.layer_parts import stored_weight
from tfstruct.keras_internals.operation_types import LayerScale, ScaledSum, StochasticDepth, operations


def _layers(names: str) -> list[type]:
    """The layers of these names that this Keras has."""
    return [getattr(layers, name) for name in names.split() if hasattr(layers, name)]


@rule(StochasticDepth)
def stochastic_depth(call: Call) -> Axes:
    call.in_place = True
    return call.input.axes


@rule(LayerScale)
def layer_scale(call: Call) -> Axes:
    channels = call.input.axes[-1]
    call.weight(call.op.gamma, Each(channels))
    if channels is not None:
        call.set("projection_dim", channels)
    call.in_place = True
    return call.input.axes


@rule(ScaledSum)
def scaled_sum(call: Call) -> Axes:
    return call.elementwise()


# Images: what moves pixels leaves channels alone.

_ADAPTIVE = " ".join(f"Adaptive{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2, 3))
_PIXELS = """
    Resizing CenterCrop RandomCrop RandomFlip RandomRotation RandomZoom RandomTranslation RandomShear RandomPerspective
    RandomElasticTransform RandomGaussianBlur
"""


@rule(*_layers(_ADAPTIVE), *_layers(_PIXELS))
def pixels(call: Call) -> Axes:
    image_without_batch = call.input.rank == 3 and type(call.op).__name__ in _PIXELS.split()
    if image_without_batch or len(call.inputs) != 1:
        call.freeze_inputs(f"{call.path} is called on something else than a batch of images")
        return call.untouched()[0]
    return tuple(keep_only(call, channel_axis(call.op, call.input.rank)))


_PIXEL_OPERATIONS = """
    Resize AffineTransform PadImages CropImages PerspectiveTransform GaussianBlur
    MaxPool AveragePool AdaptiveMaxPool AdaptiveAveragePool
"""


@rule(*operations(_PIXEL_OPERATIONS))
def pixel_operation(call: Call) -> Axes:
    image_without_batch = call.input.rank == 3 and not type(call.op).__name__.endswith("Pool")
    if image_without_batch or len(call.inputs) != 1:
        call.freeze_inputs(f"{call.path} is called on something else than a batch of images")
        return call.untouched()[0]
    return tuple(keep_only(call, channel_axis(call.op, call.input.rank)))


@rule(*operations("ExtractPatches"))
def extract_patches(call: Call) -> Axes:
    """Every pixel of a patch brings all channels."""
    axis = channel_axis(call.op, call.input.rank)
    labels = keep_only(call, axis)[axis]
    if call.input.rank != 4:
        call.freeze_inputs(f"{call.path} is called on something else than a batch of images")
        return call.untouched()[0]
    if labels is None:
        return call.untouched()[0]
    labels = np.tile(labels, call.shapes[0][axis] // len(labels))
    return tuple(labels if i == axis else None for i in range(4))


@rule(*operations("DepthToSpace"))
def depth_to_space(call: Call) -> Axes:
    """Channel (place in the block, channel): the copies of a channel go together."""
    axis = channel_axis(call.op, 4)
    labels = keep_only(call, axis)[axis]
    if labels is not None:
        copies = labels.reshape(call.op.block_size**2, -1)
        for copy in copies[1:]:
            call.unite(copies[0], copy)
        labels = copies[0]
    return tuple(labels if i == axis else None for i in range(4))


@rule(*operations("SpaceToDepth"))
def space_to_depth(call: Call) -> Axes:
    axis = channel_axis(call.op, 4)
    labels = keep_only(call, axis)[axis]
    labels = None if labels is None else np.tile(labels, call.op.block_size**2)
    return tuple(labels if i == axis else None for i in range(4))


@rule(*_layers("ReversibleEmbedding"))
def reversible_embedding(call: Call) -> Axes:
    """From tokens to vectors, or, with `reverse`, from vectors to the scores of tokens."""
    layer = call.op
    call.independent = True
    made, rows = call.fresh(layer.output_dim), call.rows(layer.input_dim)
    call.weight(stored_weight(layer, "embeddings"), Out(rows), Out(made))
    own = getattr(layer, "reverse_embeddings", None)
    if own is not None:
        call.weight(own, In(made), Out(rows))
    call.set("output_dim", made)
    if rows is not None:
        call.set("input_dim", rows)
    if not call.argument("reverse", False):
        call.looks_up(rows, call.input)
        return (*call.input.axes, made)
    call.unite(made, call.input.axes[-1])
    if own is None:
        call.sums(made)
    axes = (*call.input.axes[:-1], rows)
    positions = call.positions(axes)
    call.macs(positions, made, *(labels for labels in axes if labels is not None))
    return axes
