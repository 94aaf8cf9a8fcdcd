"""Attention layers: whole heads, the widths inside them, and the channels of the result."""

import math

import numpy as np
from keras import layers

from tfstruct.graph.call import Axes, Call, Channels, Each, In, Out, copies
from tfstruct.graph.rules.arguments import array_of
from tfstruct.graph.rules.registry import rule
from tfstruct.keras_internals.layer_parts import attended_axes, attention_projections, given_output_shape, stored_weight


def _project(call: Call, dense, *axes, bias=(), scale=None) -> None:
    call.weight(stored_weight(dense), *axes, scale=scale)
    if dense.bias is not None:
        call.weight(dense.bias, *bias, scale=scale)


def _hold_positions(call: Call, *tensors: Channels) -> None:
    for tensor in tensors:
        for labels in tensor.axes[:-1]:
            call.freeze(labels, f"{call.path} compares its positions")


def _hold_masks(call: Call, heads: list[np.ndarray]) -> None:
    """A mask that differs by head holds the heads, as nothing cuts it; and what a mask is made of stays."""
    for name in ("attention_mask", "query_mask", "value_mask", "key_mask"):
        mask = call.argument(name)
        if isinstance(mask, Channels):
            for labels in mask.axes:
                call.freeze(labels, f"{call.path} takes it as a mask")
            shape = mask.shape
        else:
            array = array_of(mask)
            shape = () if array is None else array.shape
        if len(shape) >= 4 and shape[1] != 1:
            for labels in heads:
                call.freeze(labels, f"{call.path} has a mask for each head")


def _cost(call: Call, *sizes: int | None, labels) -> None:
    """A product over these sizes, and over the labels; a pair (labels, size) counts the labels where there are any."""
    plain = [*sizes, *(size for found, size in labels if found is None)]
    call.macs(None if None in plain else math.prod(plain), *(found for found, _ in labels if found is not None))


def _scaled(width: np.ndarray):
    """Keras divides by the root of the width that the new configuration says; copies share the product with the key."""
    return lambda kept: math.sqrt(len(kept(width)) / len(width)) / copies(kept(width))


def _attended(call: Call) -> tuple[Channels, Channels, Channels] | None:
    """Returns (query, value, key). If one is a constant, freezes the inputs and returns None."""
    query, value, key = (call.argument(name) for name in ("query", "value", "key"))
    key = value if key is None else key
    if not all(isinstance(x, Channels) for x in (query, value, key)):
        call.freeze_inputs(f"{call.path} attends to a constant")
        return None
    _hold_positions(call, query, value, key)
    return query, value, key


@rule(layers.MultiHeadAttention)
def multi_head_attention(call: Call) -> list[Axes]:
    layer = call.op
    attended = _attended(call)
    if attended is None:
        return call.untouched()
    query, value, key = attended
    heads = call.fresh(layer.num_heads, "heads")
    width = call.fresh(layer.key_dim, "key_dim")
    value_width = call.fresh(layer.value_dim, "value_dim")
    _hold_masks(call, [heads])
    scale, dense = _scaled(width), attention_projections(layer)
    pair, value_pair = (Out(heads), Out(width)), (Out(heads), Out(value_width))
    _project(call, dense["query"], In(query.axes[-1]), *pair, bias=pair, scale=scale)
    _project(call, dense["key"], In(key.axes[-1]), *pair, bias=pair)
    _project(call, dense["value"], In(value.axes[-1]), *value_pair, bias=value_pair)
    gate = dense.get("gate")
    if gate is not None:
        _project(call, gate, In(query.axes[-1]), *value_pair, bias=value_pair)
    given = given_output_shape(layer)
    spread = 1 if not given else len(given)  # the number of axes of the result that are channels
    made = call.fresh(call.shapes[0][-1]) if spread == 1 else None
    outs = (Out(made),) if spread == 1 else (None,) * spread
    _project(call, dense["output"], In(heads), In(value_width), *outs, bias=outs)
    call.set("num_heads", heads)
    call.set("key_dim", width)
    call.set("value_dim", value_width)
    if made is not None:
        call.set("output_shape", lambda kept: _output_shape(given, len(kept(made)), query, kept))
    _costs(call, query, key, value, heads, width, heads, value_width, made, 1 + (gate is not None))
    return _results(call, made, heads, 2 * attended_axes(layer))


def _output_shape(given, count: int, query: Channels, kept):
    """Left out, it is the query's width: said only where it is another."""
    width = query.shape[-1] if query.axes[-1] is None else len(kept(query.axes[-1]))
    return None if not given and count == width else (count,)


def _results(call: Call, made, heads, compared: int) -> list[Axes]:
    result = (*(None,) * (len(call.shapes[0]) - 1), made)
    if len(call.shapes) == 1:
        return [result]
    scores: list[np.ndarray | None] = [None] * len(call.shapes[1])
    scores[len(scores) - compared - 1] = heads
    return [result, tuple(scores)]


def _costs(call, query, key, value, heads, width, value_heads, value_width, made, projections) -> None:
    """The four projections, the scores and their use; `projections`: how many there are of the query's positions."""
    came = math.prod(query.shape[1:-1]) if None not in query.shape[1:-1] else None
    met = math.prod(key.shape[1:-1]) if None not in key.shape[1:-1] else None
    h, w, vh, v = ((labels, len(labels)) for labels in (heads, width, value_heads, value_width))
    q, k, x = ((t.axes[-1], t.shape[-1]) for t in (query, key, value))
    out = (made, call.shapes[0][-1])
    _cost(call, came, labels=(q, h, w))
    if projections > 1:
        _cost(call, came, labels=(q, h, v))
    _cost(call, met, labels=(k, vh, w))
    _cost(call, met, labels=(x, vh, v))
    _cost(call, came, met, labels=(h, w))
    _cost(call, came, met, labels=(h, v))
    _cost(call, came, labels=(h, v, out))


@rule(layers.GroupQueryAttention)
def grouped_query_attention(call: Call) -> list[Axes]:
    """A head of keys and values goes with all heads of queries that share it; one width serves all of them."""
    layer = call.op
    attended = _attended(call)
    if attended is None:
        return call.untouched()
    query, value, key = attended
    heads = call.fresh(layer.num_key_value_heads, "heads")
    sharing = np.repeat(heads, layer.num_query_heads // layer.num_key_value_heads)
    width = call.fresh(layer.head_dim, "head_dim")
    _hold_masks(call, [heads])
    scale, dense = _scaled(width), attention_projections(layer)
    many, few = (Out(sharing), Out(width)), (Out(heads), Out(width))
    _project(call, dense["query"], In(query.axes[-1]), *many, bias=many, scale=scale)
    _project(call, dense["key"], In(key.axes[-1]), *few, bias=few)
    _project(call, dense["value"], In(value.axes[-1]), *few, bias=few)
    gate = dense.get("gate")
    if gate is not None:
        _project(call, gate, In(query.axes[-1]), *many, bias=many)
    # The result is always as wide as the query, and so is the value.
    call.unite(query.axes[-1], value.axes[-1])
    made = call.unite(call.fresh(layer.feature_dim), query.axes[-1])
    _project(call, dense["output"], In(sharing), In(width), Out(made), bias=(Out(made),))
    call.set("num_query_heads", sharing)
    call.set("num_key_value_heads", heads)
    call.set("head_dim", width)
    _costs(call, query, key, value, sharing, width, heads, width, made, 1 + (gate is not None))
    return _results(call, made, sharing, 2)


@rule(layers.Attention, layers.AdditiveAttention)
def attention(call: Call) -> list[Axes]:
    """Scores are sums over the width of query and key, which go together; the values' channels pass."""
    layer = call.op
    given = call.argument("inputs")
    if not all(isinstance(x, Channels) for x in given):
        call.freeze_inputs(f"{call.path} attends to a constant")
        return call.untouched()
    query, value, key = given[0], given[1], given[2] if len(given) > 2 else given[1]
    masks = call.argument("mask")
    for mask in masks if isinstance(masks, (list, tuple)) else ():
        for labels in mask.axes if isinstance(mask, Channels) else ():
            call.freeze(labels, f"{call.path} takes it as a mask")
    _hold_positions(call, query, value, key)
    width = call.unite(query.axes[-1], key.axes[-1])
    call.sums(width)
    # Of `AdditiveAttention` the vector that weighs the widths; that of `Attention` is one number.
    scale = getattr(layer, "scale", None)
    if scale is not None and len(scale.shape) == 1:
        call.weight(scale, Each(width))
    rows = (query.shape[-2], key.shape[-2])
    _cost(call, *rows, labels=((width, query.shape[-1]),))
    _cost(call, *rows, labels=((value.axes[-1], value.shape[-1]),))
    result = (*(None,) * (len(call.shapes[0]) - 1), value.axes[-1])
    return [result, *call.untouched()[1:]]
