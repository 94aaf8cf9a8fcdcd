"""`merge_linear`: two linear layers in a row become one."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import keras
import numpy as np

from tfstruct.arguments import checked_but
from tfstruct.errors import ModelError
from tfstruct.graph import Call, Graph, open_and_trace
from tfstruct.graph.contraction import CONVS, TRANSPOSED, pads, plain
from tfstruct.graph.linear_layers import Arrays, arrays, check_no_activation, has_activation
from tfstruct.graph.operation_traits import layers_with
from tfstruct.graph.wiring import Remake, Unfit, Wiring
from tfstruct.reporting import Result
from tfstruct.surgery.merge.passes import Pass, finished, repeated

_KINDS = layers_with("dense", "conv", "transposed")


@checked_but("layers")
def merge_linear(
    model: keras.Model, layers: Sequence[str] | None = None, *, always: bool = False, open_layers: str | bool = "auto"
) -> Result:
    """Two dense layers, or two convolutions, in a row with no activation between become one.

    Dense: `W = W1 W2, b = b1 W2 + b2`. Convolutions: `W[u] = sum over t1 + stride1 * t2 = u of W1[t1] W2[t2]`, so a
    kernel of k1 and one of k2 make one of k1 + (k2 - 1) * stride1; exact where one of them is 1x1 or neither pads,
    and where the second pads, only if the first has no bias. Transposed ones with 1x1 ones too. The new layer has the
    second one's name.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        layers: the names of two layers to merge; None for all pairs.
        always: merge also where the one layer has more parameters or multiply-accumulates than the two.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Result`: `skipped` names pairs that stay, and why.

    Raises:
        ModelError: `layers` cannot be merged into one: not two layers of the model, an activation or another layer
            between them, another reader of the first, padding that a bias would miss, or more to compute.
        TfstructError: the models differ by more than rounding explains; no model is handed out.

    Example:
        >>> linear = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(2)])
        >>> merged = tfstruct.surgery.merge_linear(linear).model
        >>> len(merged.layers)
        1
        >>> np.allclose(linear(x), merged(x), atol=1e-5)
        True
    """
    graph = open_and_trace(model, open_layers=open_layers)
    if layers is not None:
        return finished(graph, _asked(graph, layers, always))
    return finished(graph, repeated(graph, lambda one: merge_once(one, always)))


def merge_once(graph: Graph, always: bool = False) -> Pass:
    """Merges every pair whose layers have not been changed in this pass."""
    wiring, remake = Wiring(graph), Remake(graph)
    changes, skipped = [], []
    for seconds in wiring.operations():
        before = wiring.maker.get(seconds[0].input.key) if plain(seconds[0], *_KINDS) else None
        if before is None or not plain(before, *_KINDS) or has_activation(before):
            continue
        try:
            changes.append(_merge(wiring, remake, seconds, always))
        except Unfit as reason:
            skipped.append((seconds[0].path, f"not merged with `{before.path}`: {reason}"))
    return Pass(remake.model() if changes else None, changes, skipped)


def _asked(graph: Graph, layers: Sequence[str], always: bool) -> Pass:
    if isinstance(layers, str) or not isinstance(layers, Sequence) or len(layers) != 2:
        raise ModelError(f"`layers` must be the names of two layers, such as ('a', 'b'). Received: {layers!r}.")
    wiring, remake = Wiring(graph), Remake(graph)
    first, second = (_found(wiring, name) for name in layers)
    try:
        for call in (first[0], second[0]):
            if not plain(call, *_KINDS):
                raise Unfit(f"`{call.path}` ({type(call.op).__name__}) is no dense layer or convolution")
        between = wiring.maker.get(second[0].input.key)
        if between is None or between.op is not first[0].op:
            what = "an input of the model" if between is None else f"`{between.path}` ({type(between.op).__name__})"
            raise Unfit(f"`{second[0].path}` reads {what}, not `{first[0].path}`")
        change = _merge(wiring, remake, second, always)
    except Unfit as reason:
        raise ModelError(
            f"`{layers[0]}` and `{layers[1]}` cannot be merged into one layer: {reason}. Name two layers that follow "
            "each other directly, without a nonlinearity between them."
        ) from None
    return Pass(remake.model(), [change], [])


def _found(wiring: Wiring, name: str) -> list[Call]:
    every = wiring.operations()
    found = [calls for calls in every if any(call.path == name for call in calls)]
    found = found or [calls for calls in every if calls[0].op.name == name]
    if len(found) != 1:
        what = "has several layers" if found else "has no layer"
        raise ModelError(f"The model {what} `{name}`. Give a name as trace(model) shows it, `nested/{name}`.")
    return found[0]


def _merge(wiring: Wiring, remake: Remake, seconds: list[Call], always: bool) -> tuple[str, str]:
    firsts = wiring.pair(seconds)
    first, second = firsts[0], seconds[0]
    for call in (first, second):
        wiring.check_owner(call)
        if remake.touched(call.op):
            raise Unfit(f"`{call.path}` has just been merged")
    check_no_activation(first)
    if first.op.compute_dtype != second.op.compute_dtype:
        raise Unfit(f"they compute in {first.op.compute_dtype} and {second.op.compute_dtype}")
    merged = next(iter([_product(a, b) for a, b in zip(firsts, seconds, strict=True)]))
    if not always:
        _check_growth(firsts, seconds, merged)
    layer = remake.layer(merged.like, merged.values, {**_kept(merged.like, second.op), **merged.config})
    remake.drop(first.op)
    remake.edit(second.op, lambda step, run, *args, **kwargs: layer(*args, **kwargs))
    return second.path, f"merged with `{first.path}` before it"


@dataclasses.dataclass(frozen=True)
class _Merged:
    like: keras.layers.Layer
    values: Arrays
    config: dict[str, object]


def _kept(like, second) -> dict[str, object]:
    """The output settings that the new layer takes from the second layer, if both have its type."""
    own = second.get_config()
    names = ("name", "trainable", "activation", "activity_regularizer", "filters", "bias_initializer")
    return {} if like is second else {name: own[name] for name in names if name in own}


def _product(first: Call, second: Call) -> _Merged:
    a, b = first.op, second.op
    if plain(first, keras.layers.Dense) and plain(second, keras.layers.Dense):
        u, v = arrays(a), arrays(b)
        return _with_bias(b, {"kernel": u["kernel"] @ v["kernel"]}, u, v, lambda bias: bias @ v["kernel"], {})
    ranks = {getattr(op, "rank", None) for op in (a, b)}
    if len(ranks) != 1 or None in ranks or a.data_format != b.data_format:
        raise Unfit("one is a dense layer, the other a convolution, or of another rank")
    if plain(first, *TRANSPOSED) or plain(second, *TRANSPOSED):
        return _transposed(first, second)
    return _convolutions(first, second)


def _with_bias(like, values: Arrays, u: Arrays, v: Arrays, through, config, spoilt: str = "") -> _Merged:
    """The bias of the merged layer: `through(bias)` maps the first layer's bias through the second; `spoilt`: reason
    why that is not exact."""
    own = u.get("bias")
    if own is not None and not own.any():
        own = None
    if own is not None and spoilt:
        raise Unfit(spoilt)
    if own is not None or "bias" in v:
        values["bias"] = np.asarray(v.get("bias", 0.0) + (0.0 if own is None else through(own)))
    return _Merged(like, values, {**config, "use_bias": "bias" in values})


def _convolutions(first: Call, second: Call) -> _Merged:
    a, b = first.op, second.op
    u, v = arrays(a), arrays(b)
    points = [all(k == 1 for k in op.kernel_size) for op in (a, b)]
    if points[1]:
        if any(s > 1 for s in b.strides) and a.padding != "valid" and not points[0]:
            raise Unfit(f"`{first.path}` pads for another stride than the two have together")
        padding, dilation = (b if points[0] else a).padding, a.dilation_rate
    elif points[0]:
        if any(s > 1 for s in a.strides):
            raise Unfit(f"`{first.path}` leaves out positions between the taps of `{second.path}`")
        padding, dilation = b.padding, b.dilation_rate
    else:
        if a.padding != "valid" or b.padding != "valid":
            raise Unfit("with padding, only convolutions of which one is 1x1 can be merged")
        if any(d > 1 for d in (*a.dilation_rate, *b.dilation_rate)):
            raise Unfit("both have more than one tap, and one is dilated")
        padding, dilation = "valid", a.dilation_rate
    strides = tuple(x * y for x, y in zip(a.strides, b.strides, strict=True))
    if all(points):
        dilation = (1,) * a.rank
    if any(d > 1 for d in dilation) and any(s > 1 for s in strides):
        raise Unfit("together they have a stride and a dilation, which no convolution has")
    groups = a.groups if a.groups == b.groups else 1
    one, two = (_grouped(x["kernel"], op.groups, groups) for x, op in ((u, a), (v, b)))
    # Taps are as far apart as the dilation of the one kernel that has several.
    steps = a.strides if not (points[0] or points[1]) else (1,) * a.rank
    size = [k1 + (k2 - 1) * s for k1, k2, s in zip(a.kernel_size, b.kernel_size, steps, strict=True)]
    kernel = np.zeros((*size, one.shape[-3], groups, two.shape[-1]))
    for t1, t2 in itertools.product(np.ndindex(*a.kernel_size), np.ndindex(*b.kernel_size)):
        at = tuple(i + j * s for i, j, s in zip(t1, t2, steps, strict=True))
        kernel[at] += np.einsum("igm,mgo->igo", one[t1], two[t2])
    config = {
        "kernel_size": tuple(size),
        "strides": strides,
        "padding": padding,
        "dilation_rate": tuple(dilation),
        "groups": groups,
    }

    def through(bias):
        taps = two.reshape(-1, *two.shape[-3:]).sum(0)
        return np.einsum("gm,mgo->go", bias.reshape(groups, -1), taps).ravel()

    spoilt = f"`{second.path}` pads with zeros, which lack the bias of `{first.path}`" if pads(second) else ""
    values = {"kernel": kernel.reshape(*kernel.shape[:-2], -1)}
    return _with_bias(b, values, u, v, through, config, spoilt)


def _grouped(kernel: np.ndarray, groups: int, wanted: int) -> np.ndarray:
    """The kernel as (taps..., in, groups, out), filled with zeros if it has fewer groups than wanted."""
    *taps, ins, outs = kernel.shape
    if groups == wanted:
        return kernel.reshape(*taps, ins, groups, -1)
    full = np.zeros((*taps, ins * groups, outs))
    per = outs // groups
    for g in range(groups):
        full[..., g * ins : (g + 1) * ins, g * per : (g + 1) * per] = kernel[..., g * per : (g + 1) * per]
    return full[..., None, :]


def _transposed(first: Call, second: Call) -> _Merged:
    """Merges a transposed convolution with a 1x1 convolution before or behind it; its kernel's last axes are (out,
    in)."""
    a, b = first.op, second.op
    u, v = arrays(a), arrays(b)
    convs = [op for op in (a, b) if isinstance(op, CONVS)]
    if len(convs) != 1 or convs[0].groups != 1 or any(n != 1 for n in (*convs[0].kernel_size, *convs[0].strides)):
        raise Unfit("a transposed convolution can be merged with a 1x1 convolution of stride 1 only")
    if isinstance(a, TRANSPOSED):
        point = v["kernel"].reshape(v["kernel"].shape[-2:])
        values = {"kernel": np.einsum("...mi,mo->...oi", u["kernel"], point)}
        return _with_bias(a, values, u, v, lambda bias: bias @ point, {})
    point = u["kernel"].reshape(u["kernel"].shape[-2:])
    values = {"kernel": np.einsum("im,...om->...oi", point, v["kernel"])}
    alone = all(n == 1 for n in (*b.kernel_size, *b.strides))
    spoilt = "" if alone else f"not every output of `{second.path}` meets the bias of `{first.path}` equally often"
    return _with_bias(b, values, u, v, lambda x: v["kernel"].reshape(v["kernel"].shape[-2:]) @ x, {}, spoilt)


def _check_growth(firsts: Sequence[Call], seconds: Sequence[Call], merged: _Merged) -> None:
    """Raises Unfit if the merged layer has more parameters or multiply-accumulates than both layers."""
    first, second = firsts[0], seconds[0]
    old = first.op.count_params() + second.op.count_params()
    new = sum(x.size for x in merged.values.values())
    if new > old:
        raise Unfit(f"it would have {new:,} parameters, the two have {old:,} (always=True merges nevertheless)")
    places = [_places(first), _places(second), _places(first if merged.like is first.op else second)]
    if None in places:
        return
    sizes = [op.kernel.shape for op in (first.op, second.op)] + [merged.values["kernel"].shape]
    macs = [n * math.prod(size) for n, size in zip(places, sizes, strict=True)]
    if macs[2] > macs[0] + macs[1]:
        raise Unfit(
            f"it would take {macs[2]:,} multiply-accumulates, the two take {macs[0] + macs[1]:,} "
            "(always=True merges nevertheless)"
        )


def _places(call: Call) -> int | None:
    """Number of positions at which the kernel is applied; None if a size is open."""
    shape = call.input.shape if isinstance(call.op, TRANSPOSED) else call.shapes[0]
    first = getattr(call.op, "data_format", None) == "channels_first"
    sizes = shape[2:] if first else shape[1:-1]
    return None if None in sizes else math.prod(sizes)
