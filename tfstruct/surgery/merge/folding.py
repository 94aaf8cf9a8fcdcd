"""`fold_batch_norm`: folds batch norms into neighbouring layers."""

import keras
import numpy as np
from keras import layers, ops

from tfstruct.arguments import checked
from tfstruct.graph import Call, Graph, open_and_trace
from tfstruct.graph.channelwise import ends, maker
from tfstruct.graph.contraction import plain
from tfstruct.graph.linear_layers import Affine, arrays, before, behind, check_no_activation
from tfstruct.graph.wiring import Remake, Unfit, Wiring
from tfstruct.reporting import Result
from tfstruct.surgery.merge.passes import Pass, finished, repeated


@checked
def fold_batch_norm(model: keras.Model, *, open_layers: str | bool = "auto") -> Result:
    """Folds batch norms into the kernels and biases of the layer before or behind them, for inference.

    With s = gamma / sqrt(variance + epsilon), behind a layer: `W' = W * s, b' = (b - mean) * s + beta`; before one:
    `W'[i, o] = W[i, o] * s[i], b'[o] = b[o] + sum over taps and i of W[i, o] * (beta - mean * s)[i]`, which is exact
    only where the layer does not pad, or the shift is zero. Into dense layers, convolutions (grouped, transposed,
    depthwise, separable) and einsums; also across pooling, dropout and flattening between the two. A layer without a
    bias gets one. For inference: a folded model that is trained further has no batch statistics.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Result`: `skipped` names the batch normalizations that stay, and why: mostly, as an activation or an Add
        stands between them and the next layer (ResNetV2, DenseNet).

    Raises:
        ModelError: the model's graph cannot be walked (a subclassed model).
        TfstructError: the models differ by more than rounding explains; no model is handed out.

    Source: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
    arXiv:1712.05877, section 3.2.

    Example:
        >>> edited = tfstruct.surgery.fold_batch_norm(convnet)
        >>> any(layer.name == "norm" for layer in edited.model.layers)
        False
        >>> np.allclose(convnet(images, training=False), edited.model(images), atol=1e-4)
        True
    """
    graph = open_and_trace(model, open_layers=open_layers)
    return finished(graph, repeated(graph, fold_once))


def affine_of(call: Call) -> Affine:
    """The affine map that a batch norm applies to each channel in inference.

    Raises:
        Unfit: it runs on the statistics of its batch, or its statistics are no numbers.
    """
    norm = call.op
    if call.argument("training"):
        raise Unfit("it is called with training=True")

    def read(variable, default):
        return default if variable is None else ops.convert_to_numpy(variable).astype("float64")

    mean, variance = read(norm.moving_mean, None), read(norm.moving_variance, None)
    with np.errstate(all="ignore"):
        scale = read(norm.gamma, 1.0) / np.sqrt(variance + norm.epsilon)
        shift = read(norm.beta, 0.0) - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise Unfit("its scale or shift is not finite")
    return Affine(scale, shift)


def fold_once(graph: Graph) -> Pass:
    """Folds every batch norm that has a layer of its own to fold into."""
    wiring, remake = Wiring(graph), Remake(graph)
    changes, skipped = [], []
    for calls in wiring.operations():
        if not plain(calls[0], layers.BatchNormalization):
            continue
        reasons = []
        for fold in (_into_makers, _into_readers):
            try:
                changes.append((calls[0].path, fold(wiring, remake, calls)))
                break
            except Unfit as reason:
                reasons.append(str(reason))
        else:
            skipped.append((calls[0].path, "; ".join(dict.fromkeys(reasons))))
    return Pass(remake.model() if changes else None, changes, skipped)


def _into_makers(wiring: Wiring, remake: Remake, norms: list[Call]) -> str:
    affine = affine_of(norms[0])
    makers = [maker(wiring, norm, affine, norm.op.axis % norm.input.rank) for norm in norms]
    _check(wiring, remake, norms, [call for call, _ in makers])
    made = {}
    for call, axis in makers:
        check_no_activation(call)
        values, config = behind(call, arrays(call.op), affine, axis)
        made[id(call.op)] = call, (values, {**config, **wiring.inherited(norms[0], call)})
    return f"folded into {_put(remake, norms, made)} before it"


def _into_readers(wiring: Wiring, remake: Remake, norms: list[Call]) -> str:
    affine = affine_of(norms[0])
    found = [end for norm in norms for end in ends(wiring, norm, affine, norm.op.axis % norm.input.rank)]
    if not found:
        raise Unfit("nothing reads it")
    _check(wiring, remake, norms, [call for call, _, _ in found])
    made = {id(call.op): (call, before(call, arrays(call.op), met, at)) for call, met, at in found}
    return f"folded into {_put(remake, norms, made)} behind it"


def _check(wiring: Wiring, remake: Remake, norms: list[Call], found: list[Call]) -> None:
    """Checks that the layers of an edit have no other calls and have not been changed in this pass."""
    if remake.touched(norms[0].op):
        raise Unfit("its neighbour has just been changed")
    for call in found:
        if remake.touched(call.op):
            raise Unfit(f"`{call.path}` has just been changed")
        if sum(one.op is call.op for one in found) != len(wiring.calls[id(call.op)]):
            raise Unfit(f"`{call.path}` is shared with places where it is not normalized like this")
        if call.op.compute_dtype != norms[0].op.compute_dtype:
            raise Unfit(f"`{call.path}` computes in {call.op.compute_dtype}, it in {norms[0].op.compute_dtype}")
        wiring.check_owner(call)


def _put(remake: Remake, norms: list[Call], made: dict) -> str:
    for call, (values, config) in made.values():
        remake.replace(call.op, values, config)
    remake.drop(norms[0].op)
    return ", ".join(dict.fromkeys(f"`{call.path}`" for call, _ in made.values()))
