"""TFMOT's wrappers taken off: the plain layer inside, its final weights, and what the wrapper knew."""

import contextlib
import dataclasses
import os
from typing import Any

import numpy as np

from tfstruct.keras_internals import keras2

Range = tuple[float, float]
WRAPPERS = ("PruneLowMagnitude", "ClusterWeights", "ClusterWeightsRNN", "ClusterWeightsMHA")
QUANTIZERS = ("QuantizeWrapper", "QuantizeWrapperV2")
CLASSES = (*WRAPPERS, *QUANTIZERS, "QuantizeLayer", "QuantizeAnnotate")


@dataclasses.dataclass
class Weight:
    """A weight of a plain layer.

    Attributes:
        name: Keras 2's, `"conv/kernel"`.
        value: what the layer computes with at inference, before quantization.
        mask: where the values may be other than zero; None if it was not pruned.
        centroids: the values it may take; None if it was not clustered.
        range: (low, high) of its trained quantizer, one number or one a channel; None without one.
    """

    name: str
    value: np.ndarray
    mask: np.ndarray | None = None
    centroids: np.ndarray | None = None
    range: tuple[np.ndarray, np.ndarray] | None = None


@dataclasses.dataclass
class Plain:
    """A layer without its wrappers.

    Attributes:
        layer: of Keras 2; None for a layer that only quantizes.
        weights: in Keras 2's order.
        lines: what was taken off.
        before: trained range of the values that enter the activation.
        output: trained range of the output.
    """

    layer: Any
    weights: list[Weight]
    lines: list[str]
    before: Range | None = None
    output: Range | None = None


def unwrap(layer) -> Plain:
    """Takes all wrappers off a Keras 2 layer, the outermost first; a plain layer comes back as it is."""
    kind = type(layer).__name__
    if kind == "QuantizeLayer":
        found = _range(getattr(layer, "quantizer_vars", None)) if layer.quantizer else None
        return Plain(None, [], ["took off the quantizer of the input"], output=found)
    if kind == "QuantizeAnnotate":
        inner = unwrap(layer.layer)
        return dataclasses.replace(inner, lines=["took off an annotation for quantization", *inner.lines])
    if kind == "PruneLowMagnitude":
        return _pruned(layer)
    if kind.startswith("ClusterWeights"):
        return _clustered(layer)
    if kind in QUANTIZERS:
        return _quantized(layer)
    # The tables of text layers are no numbers; their vocabulary stands in the configuration.
    weights = [w for w in layer.weights if hasattr(w, "name") and hasattr(w, "numpy")]
    return Plain(layer, [Weight(w.name.split(":")[0], _value(w)) for w in weights], [])


def _pruned(wrapper) -> Plain:
    plain = unwrap(wrapper.layer)
    for variable, mask, _ in wrapper.pruning_vars:
        weight = _find(plain.weights, variable)
        weight.mask = _value(mask) != 0
        weight.value = weight.value * weight.mask
    masks = [_value(mask).ravel() for _, mask, _ in wrapper.pruning_vars]
    line = "took off a pruning wrapper that had nothing to prune"
    if masks:
        line = f"took off pruning, kept its mask ({1 - np.mean(np.concatenate(masks)):.0%} zeros)"
    return dataclasses.replace(plain, lines=[line, *plain.lines])


def _clustered(wrapper) -> Plain:
    # As TFMOT's strip_clustering: the weights are looked up once more, from the last centroids.
    wrapper.update_clustered_weights_associations()
    inner = wrapper.layer
    originals = list(wrapper.original_clusterable_weights.values())
    weights = [Weight(w.name.split(":")[0], _value(w)) for w in inner.weights if not any(w is o for o in originals)]
    for position, name in sorted(wrapper.position_original_weights.items()):
        original = wrapper.original_clusterable_weights[name]
        value = np.asarray(wrapper.get_weight_from_layer(name))
        weight = Weight(original.name.split(":")[0], value, centroids=_value(wrapper.cluster_centroids[name]))
        if wrapper.preserve_sparsity:
            weight.mask = np.asarray(wrapper.sparsity_masks[name]) != 0
            weight.value = weight.value * weight.mask
        weights.insert(position, weight)
    line = "took off a clustering wrapper that had nothing to cluster"
    if wrapper.position_original_weights:
        line = f"took off clustering, kept its {wrapper.number_of_clusters} centroids"
    return Plain(inner, weights, [line])


def _quantized(wrapper) -> Plain:
    inner = wrapper.layer
    # A quantized call leaves a tensor in place of `layer.kernel`; the variables stay with the wrapper.
    variables = [v for v, _, _ in keras2.quantized_weights(wrapper)]
    variables += [w for w in inner.weights if not any(w is v for v in variables)]
    weights = [Weight(v.name.split(":")[0], _value(v)) for v in variables]
    for variable, _, state in keras2.quantized_weights(wrapper):
        weight = _find(weights, variable)
        weight.range = _arrays(state)
        _preserved(weight, state or {})
        if weight.range and weight.centroids is None:
            # The quantizer clips to the range of its last step; the optimizer has moved the weights since.
            weight.value = np.clip(weight.value, *weight.range)
    before = output = None
    for came, made in keras2.quantized_activations(wrapper):
        before, output = _range(came) or before, _range(made) or output
    output = _range(keras2.quantized_output(wrapper)) or output
    line = "took off a quantization wrapper that had nothing to quantize"
    if before or output or any(weight.range for weight in weights):
        line = "took off the quantizers, kept their trained ranges"
    return Plain(inner, weights, [line], before, output)


def _preserved(weight: Weight, state: dict) -> None:
    """What pruning- and cluster-preserving quantization-aware training keep in a quantizer."""
    if "cluster_centroids_tf" in state:
        indices, originals = state["pulling_indices_tf"], state["ori_weights_vars_tf"]
        weight.value = np.asarray(state["clst_impl"].get_clustered_weight(indices, originals))
        weight.centroids = _value(state["cluster_centroids_tf"])
    mask = state.get("sparsity_mask")
    if mask is not None:
        weight.mask = np.asarray(mask) != 0
        weight.value = weight.value * weight.mask


def _find(weights: list[Weight], variable) -> Weight:
    name = variable.name.split(":")[0]
    return next(w for w in weights if w.name == name and w.value.shape == tuple(variable.shape))


def _value(variable) -> np.ndarray:
    return np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)


def _arrays(state: dict | None) -> tuple[np.ndarray, np.ndarray] | None:
    if not state or "min_var" not in state:
        return None
    return _value(state["min_var"]), _value(state["max_var"])


def _range(state: dict | None) -> Range | None:
    found = _arrays(state)
    return found and (float(np.min(found[0])), float(np.max(found[1])))


@contextlib.contextmanager
def scope():
    """While it is open, Keras 2 can read TFMOT's wrappers.

    TFMOT sets TF_USE_LEGACY_KERAS when it is imported, which turns `tf.keras` into Keras 2 for the whole
    process if nobody used it before. So `tf.keras` is used first, and the variable put back afterwards:
    TFMOT then imports `tf_keras` by itself, `tf.keras` and `keras` stay Keras 3.
    """
    import tensorflow as tf

    before = os.environ.get("TF_USE_LEGACY_KERAS")
    _ = tf.keras.Model  # where TFMOT came first, or the user has set the variable, that is Keras 2 already
    try:
        import tensorflow_model_optimization as tfmot
    finally:
        if before is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
    clustering, pruning = tfmot.clustering.keras.cluster_scope, tfmot.sparsity.keras.prune_scope
    with tfmot.quantization.keras.quantize_scope(), pruning(), clustering():
        yield
