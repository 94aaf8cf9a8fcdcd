"""Keras's own layers that a file computes in several operators, in the form in which files of integers hold them.

Twins open them too, so that each of these operators rounds. `convert/rewrites` traces the layers in the same form.
"""

import functools
import math
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

from tfstruct.keras_internals.graph_nodes import set_mask
from tfstruct.keras_internals.operation_types import operation

# What a masked score is in Keras's attention.
_MASKED = -0.7 * 3.38953e38


def is_composite(op: keras.Operation) -> bool:
    """Whether there is a form for a layer or operation; for classes of one's own that are based on it there is none."""
    if type(op) in _OF_TWO:
        return _count(op) > 2
    return type(op) in LAYERS or type(op) in OPERATIONS


def _count(merge) -> int:
    """How many tensors a layer that joins some was built for."""
    return len((merge.get_build_config() or {}).get("input_shape") or ()) if merge.built else 0


def layer_normalization(layer: layers.LayerNormalization, x):
    """y = d * rsqrt(mean(d^2) + eps) * gamma + beta with d = x - mean(x): Keras's own has NEG, which has no kernel."""
    axes, shape = _axes(layer, x)
    x = _float32(x)
    if not getattr(layer, "rms_scaling", False):
        x = x - ops.mean(x, axis=axes, keepdims=True)
    y = x * ops.rsqrt(ops.mean(x * x, axis=axes, keepdims=True) + layer.epsilon)
    return _as(scaled(y, layer.gamma, layer.beta, shape), layer.compute_dtype)


def rms_normalization(layer: layers.RMSNormalization, x):
    """y = x * rsqrt(mean(x^2) + eps) * scale, the square as a product: SQUARE has no integer kernel."""
    axes, shape = _axes(layer, x)
    x = _float32(x)
    y = x * ops.rsqrt(ops.mean(x * x, axis=axes, keepdims=True) + layer.epsilon)
    return _as(y * ops.reshape(layer.scale, shape), layer.compute_dtype)


def unit_normalization(layer: layers.UnitNormalization, x):
    """y = x * rsqrt(max(sum(x^2), 1e-12)), the square as a product."""
    return x * ops.rsqrt(ops.maximum(ops.sum(x * x, axis=layer.axis, keepdims=True), 1e-12))


def group_normalization(layer: layers.GroupNormalization, x):
    """Layer normalization of each group of channels, the square as a product."""
    axis = layer.axis % len(x.shape)
    channels = x.shape[axis]
    grouped = ops.reshape(x, (-1, *x.shape[1:axis], layer.groups, channels // layer.groups, *x.shape[axis + 1 :]))
    axes = [i for i in range(1, len(grouped.shape)) if i != axis]
    d = grouped - ops.mean(grouped, axis=axes, keepdims=True)
    y = d * ops.rsqrt(ops.mean(d * d, axis=axes, keepdims=True) + layer.epsilon)
    shape = [1] * len(x.shape)
    shape[axis] = channels
    return scaled(ops.reshape(y, (-1, *x.shape[1:])), layer.gamma, layer.beta, shape)


def scaled(y, gamma, beta, shape):
    """y * gamma + beta, both in that shape, where they are there."""
    y = y if gamma is None else y * ops.reshape(gamma, shape)
    return y if beta is None else y + ops.reshape(beta, shape)


def reversible_embedding(layer: layers.Embedding, inputs, reverse: bool = False):
    """Rows of the table picked by ids; with `reverse` logits = x kernel, where the kernel is the table transposed or
    the layer's own, and c tanh(logits / c) for `logit_soft_cap` = c."""
    if not reverse:
        ids = inputs if "int" in keras.backend.standardize_dtype(inputs.dtype) else ops.cast(inputs, "int32")
        made = ops.take(layer.embeddings, ids, axis=0)
        if layer.mask_zero:
            set_mask(made, ops.not_equal(inputs, 0))
        return made
    kernel = ops.transpose(layer.embeddings) if layer.tie_weights else layer.reverse_embeddings
    if layer.reverse_dtype is not None:
        inputs, kernel = _as(inputs, layer.reverse_dtype), _as(kernel, layer.reverse_dtype)
    logits, cap = ops.matmul(inputs, kernel), layer.logit_soft_cap
    return logits if cap is None else ops.tanh(logits / cap) * cap


def _one_by_one(join: Callable) -> Callable:
    """join(join(x0, x1), x2): files have no operator for three."""
    return lambda layer, inputs: functools.reduce(join, _of_one_rank(inputs))


def _average(layer: layers.Average, inputs):
    return functools.reduce(ops.add, _of_one_rank(inputs)) / len(inputs)


def _of_one_rank(inputs) -> list:
    """Tensors of fewer axes get those of size 1 that they lack behind the batch, as Keras joins them."""
    rank = max(len(x.shape) for x in inputs)
    return [x if len(x.shape) == rank else _with_rank(x, rank) for x in inputs]


def _with_rank(x, rank: int):
    for _ in range(rank - len(x.shape)):
        x = ops.expand_dims(x, 1)
    return x


def dot_product_attention(op, query, key, value, bias=None, mask=None, scale=None):
    """softmax(q k^T scale + bias) v by heads, as Keras computes `ops.dot_product_attention`: (B, T, heads, width)."""
    heads, given = query.shape[2], key.shape[2]
    if heads > given > 1:
        key, value = (ops.repeat(x, heads // given, axis=2) for x in (key, value))
    scores = ops.einsum("btnh,bmnh->bntm", query, key) * (1.0 / math.sqrt(key.shape[-1]) if scale is None else scale)
    if bias is not None:
        scores = scores + ops.cast(bias, scores.dtype)
    if op.is_causal:
        causal = np.tril(np.ones(scores.shape[2:], bool))[None, None]
        mask = causal if mask is None else ops.logical_and(mask, causal)
    if mask is not None:
        scores = ops.where(mask, scores, _MASKED)
    return ops.einsum("bntm,bmnh->btnh", _as(ops.softmax(_float32(scores)), key.dtype), value)


def _axes(layer, x) -> tuple[list[int], list[int]]:
    """The axes that statistics are taken over, and the shape of a weight along them."""
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    shape = [1] * len(x.shape)
    for axis in axes:
        shape[axis] = x.shape[axis]
    return axes, shape


def _float32(x):
    """Squares and exponentials of float16 are taken in float32, as Keras does."""
    return _as(x, "float32") if keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16") else x


def _as(x, dtype: str):
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else ops.cast(x, dtype)


# The layers and operations, and the function of (layer, ...) that is recorded in place of their `call`.
OPERATIONS: dict[type[keras.Operation], Callable] = {operation("DotProductAttention"): dot_product_attention}
LAYERS: dict[type, Callable] = {
    layers.LayerNormalization: layer_normalization,
    layers.RMSNormalization: rms_normalization,
    layers.UnitNormalization: unit_normalization,
    layers.GroupNormalization: group_normalization,
    layers.MultiHeadAttention: layers.MultiHeadAttention.call,
    layers.GroupQueryAttention: layers.GroupQueryAttention.call,
    layers.Attention: layers.Attention.call,
    layers.AdditiveAttention: layers.AdditiveAttention.call,
    layers.Average: _average,
}
# Those whose operator joins two tensors.
_OF_TWO: dict[type, Callable] = {layers.Add: ops.add, layers.Multiply: ops.multiply}
LAYERS |= {kind: _one_by_one(join) for kind, join in _OF_TWO.items()}
if hasattr(layers, "ReversibleEmbedding"):  # from Keras 3.14 on
    LAYERS[layers.ReversibleEmbedding] = reversible_embedding
