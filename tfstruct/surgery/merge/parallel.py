"""`merge_parallel`: branches that read one tensor and join in an Add become one layer."""

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from tfstruct.arguments import checked
from tfstruct.graph import Call, Graph, open_and_trace
from tfstruct.graph.contraction import DEPTHWISE, plain
from tfstruct.graph.linear_layers import Affine, arrays, axes, check_no_activation
from tfstruct.graph.operation_traits import layers_with
from tfstruct.graph.wiring import Remake, Unfit, Wiring
from tfstruct.keras_internals.operation_types import operation
from tfstruct.reporting import Result
from tfstruct.surgery.merge.folding import affine_of
from tfstruct.surgery.merge.passes import Pass, finished, repeated

_KINDS = layers_with("dense", "conv", "depthwise")


@checked
def merge_parallel(model: keras.Model, *, always: bool = False, open_layers: str | bool = "auto") -> Result:
    """Convolutions, or dense layers, that read one tensor and join in an Add become one: structural
    re-parameterization.

    Kernels are embedded in the largest with zeros around and summed, biases summed; the tensor itself as a branch is a
    1x1 kernel of ones on the diagonal, a batch normalization of it one of its scale, with its shift in the bias. The
    taps have to meet the same positions: equal strides and paddings that fit, equal groups; batch normalizations
    behind convolutions first go by `fold_batch_norm`. The new layer has the Add's name, or, where the Add joins
    further tensors, the first branch's.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        always: merge also where the one kernel is larger than all together (1x3 and 3x1).
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Result`: `skipped` names joins that stay, and why.

    Raises:
        ModelError: the model's graph cannot be walked (a subclassed model).
        TfstructError: the models differ by more than rounding explains; no model is handed out.

    Source: Ding et al., RepVGG: Making VGG-style ConvNets great again, arXiv:2101.03697, section 3.3; asymmetric
    kernels: ACNet, arXiv:1908.03930.

    Example:
        >>> pixels = keras.Input((6, 6, 2))
        >>> wide, narrow = (keras.layers.Conv2D(4, n, padding="same", name=f"conv{n}") for n in (3, 1))
        >>> parallel = keras.Model(pixels, keras.layers.Add(name="sum")([wide(pixels), narrow(pixels)]))
        >>> sum(isinstance(x, keras.layers.Conv2D) for x in tfstruct.surgery.merge_parallel(parallel).model.layers)
        1
    """
    graph = open_and_trace(model, open_layers=open_layers)
    return finished(graph, repeated(graph, lambda one: join_once(one, always)))


def join_once(graph: Graph, always: bool = False) -> Pass:
    """Merges the branches of every join; if branches read different tensors, one set a pass."""
    wiring, remake = Wiring(graph), Remake(graph)
    changes, skipped = [], []
    for calls in wiring.operations():
        call = calls[0]
        if not (plain(call, layers.Add) or type(call.op) is operation("Add")) or len(call.inputs) < 2:
            continue
        try:
            branches = _branches(wiring, call)
            if branches:
                changes.append(_join(wiring, remake, calls, branches, always))
        except Unfit as reason:
            skipped.append((call.path, str(reason)))
    return Pass(remake.model() if changes else None, changes, skipped)


@dataclasses.dataclass(frozen=True)
class _Branch:
    """Input `index` of a join. `call` is the layer between source and join; None if the source itself is the input."""

    index: int
    call: Call | None
    source: int

    @property
    def kernel(self) -> Call | None:
        """The call of a layer with a kernel, or None."""
        return self.call if self.call is not None and plain(self.call, *_KINDS) else None


def _kernels(branches: Sequence[_Branch]) -> list[Call]:
    return [call for branch in branches if (call := branch.kernel) is not None]


def _branches(wiring: Wiring, join: Call) -> list[_Branch]:
    """Two or more branches with the same source, at least one with a kernel; empty if there are none."""
    found: dict[int, list[_Branch]] = {}
    for index, tensor in enumerate(join.inputs):
        made = wiring.maker.get(tensor.key)
        if made is not None and plain(made, *_KINDS, layers.BatchNormalization) and _joins_only(wiring, made):
            found.setdefault(made.input.key, []).append(_Branch(index, made, made.input.key))
        else:
            found.setdefault(tensor.key, []).append(_Branch(index, None, tensor.key))
    for branches in found.values():
        if len(branches) > 1 and _kernels(branches):
            return branches
    return []


def _joins_only(wiring: Wiring, call: Call) -> bool:
    try:
        wiring.reader(call)
        if not plain(call, layers.BatchNormalization):
            check_no_activation(call)
    except Unfit:
        return False
    return True


def _join(wiring: Wiring, remake: Remake, joins: Sequence[Call], branches: list[_Branch], always: bool):
    _check(wiring, remake, joins, branches)
    kernels = _kernels(branches)
    plans = [_merged(wiring, join, [_same(wiring, join, b) for b in branches]) for join in joins]
    values, config = plans[0]
    if any(other != config for _, other in plans):
        raise Unfit("the branches are called on tensors of other shapes too, which needs another padding")
    old, new = sum(math.prod(call.op.kernel.shape) for call in kernels), values["kernel"].size
    if new > old and not always:
        raise Unfit(
            f"its kernel would have {new:,} elements, those of its branches {old:,} (always=True merges nevertheless)"
        )
    rest = len(joins[0].inputs) - len(branches)
    name = kernels[0].op.name if rest else joins[0].op.name
    layer = remake.layer(kernels[0].op, values, {**config, "name": name, "use_bias": "bias" in values})
    for branch in branches:
        if branch.call is not None:
            remake.drop(branch.call.op)
    places = {branch.index for branch in branches}

    def joined(step, run, *args, **kwargs):
        tensors = keras.tree.flatten((args, kwargs))
        merged = layer(tensors[branches[0].index])
        return run([merged, *(x for i, x in enumerate(tensors) if i not in places)]) if rest else merged

    remake.edit(joins[0].op, joined)
    what = ", ".join(f"`{b.call.path}`" if b.call is not None else "the identity" for b in branches)
    return joins[0].path, f"{len(branches)} branches are one layer `{name}`: {what}"


def _check(wiring: Wiring, remake: Remake, joins: Sequence[Call], branches: list[_Branch]) -> None:
    kernels = _kernels(branches)
    for call in (b.call for b in branches if b.call is not None):
        if remake.touched(call.op):
            raise Unfit(f"`{call.path}` has just been changed")
        if len(wiring.calls[id(call.op)]) != len(joins):
            raise Unfit(f"`{call.path}` is used elsewhere too")
        if call.op.compute_dtype != kernels[0].op.compute_dtype:
            raise Unfit(f"`{call.path}` computes in {call.op.compute_dtype}, others not")
        wiring.check_owner(call)
    if len({type(call.op) for call in kernels}) > 1:
        raise Unfit("its branches are layers of different types")
    for name in ("strides", "groups", "depth_multiplier", "data_format"):
        if len({getattr(call.op, name, None) for call in kernels}) > 1:
            raise Unfit(f"its branches differ in `{name}`")


def _same(wiring: Wiring, join: Call, branch: _Branch) -> _Branch:
    """The same branch in another call of the join."""
    tensor = join.inputs[branch.index]
    if branch.call is None:
        return dataclasses.replace(branch, source=tensor.key)
    made = wiring.maker.get(tensor.key)
    if made is None or made.op is not branch.call.op:
        raise Unfit("its branches are others in another call")
    if wiring.reader(made) is not join:
        raise Unfit(f"`{made.path}` is read by others too")
    return _Branch(branch.index, made, made.input.key)


def _merged(wiring: Wiring, join: Call, branches: list[_Branch]):
    """Weights and configuration of the merged layer, for one call of the join."""
    if len({b.source for b in branches}) > 1:
        raise Unfit("its branches read different tensors in another call")
    if any(join.inputs[b.index].shape != join.shapes[0] for b in branches):
        raise Unfit("it broadcasts one of its branches")
    kernels = _kernels(branches)
    first = kernels[0]
    others = [_affine(b, axes(first)[1]) for b in branches if b.kernel is None]
    weights = [arrays(call.op) for call in kernels]
    bias = sum((w["bias"] for w in weights if "bias" in w), np.zeros(join.shapes[0][axes(first)[1]]))
    bias = bias + sum(x.shift for x in others)
    values = {"bias": bias} if any("bias" in w for w in weights) or bias.any() else {}
    if plain(first, layers.Dense):
        if others and first.input.shape[-1] != first.op.units:
            raise Unfit("the source has another number of channels")
        kernel = sum(w["kernel"] for w in weights) + sum(np.eye(len(bias)) * x.scale for x in others)
        return {"kernel": kernel, **values}, {}
    if others and any(s > 1 for s in first.op.strides):
        raise Unfit("the source joins at another stride")
    places = [_offsets(call) for call in kernels]
    if others:
        places.append([[0]] * first.op.rank)
    padding, size, dilation, host = _host(kernels, places)
    kernel = np.zeros((*size, *weights[0]["kernel"].shape[-2:]))
    for offsets, w in zip(places, weights, strict=False):
        at = [[every.index(x) for x in own] for every, own in zip(host, offsets, strict=True)]
        kernel[np.ix_(*at)] += w["kernel"]
    if others:
        centre = tuple(every.index(0) for every in host)
        kernel[centre] += np.sum([_diagonal(first, x.scale) for x in others], axis=0)
    config = {"kernel_size": size, "padding": padding, "dilation_rate": dilation}
    return {"kernel": kernel, **values}, config


def _affine(branch: _Branch, axis: int) -> Affine:
    """A branch without a kernel: the source itself, or its batch norm."""
    if branch.call is None:
        return Affine(np.ones(1), np.zeros(1))
    if branch.call.op.axis % branch.call.input.rank != axis:
        raise Unfit(f"`{branch.call.path}` does not normalize the channels")
    return affine_of(branch.call)


def _diagonal(call: Call, scale: np.ndarray) -> np.ndarray:
    """Last two axes of a kernel that passes each channel on, times its scale."""
    op, width = call.op, call.input.shape[axes(call)[0]]
    assert width is not None  # a kernel was built for it
    scale = np.broadcast_to(scale, width)
    if isinstance(op, DEPTHWISE):
        return scale[:, None] * np.ones((1, op.depth_multiplier))
    per = width // op.groups
    return np.tile(np.eye(per), (1, op.groups)) * scale


# Where the taps of a kernel are, relative to the first position that an output stands for.


def _sizes(call: Call) -> list[int | None]:
    axis = axes(call)[0]
    return [n for i, n in enumerate(call.input.shape) if i not in (0, axis)]


def _offsets(call: Call) -> list[list[object]]:
    op = call.op
    every = zip(_sizes(call), op.kernel_size, op.strides, op.dilation_rate, strict=True)
    return [_taps(op.padding, n, k, s, d) for n, k, s, d in every]


def _taps(padding: str, n: int | None, k: int, s: int, d: int) -> list[object]:
    """By tap its offset; where it depends on a size that is open, something that equals only itself."""
    reach = (k - 1) * d
    if padding == "valid" or k == 1:
        before = 0
    elif padding == "causal":
        before = reach
    elif s == 1:
        before = reach // 2
    elif n is None:
        return [("open", k, d, t) for t in range(k)]
    else:
        before = max((-(-n // s) - 1) * s + reach + 1 - n, 0) // 2
    return [t * d - before for t in range(k)]


def _length(padding: str, n: int | None, k: int, s: int, d: int) -> object:
    """Number of output positions."""
    lost = (k - 1) * d if padding == "valid" else 0
    return ("open", lost) if n is None else -(-(n - lost) // s)


def _host(kernels: Sequence[Call], places: Sequence[list[list[object]]]):
    """A padding, and by dimension a size, a dilation and the taps of one of the branches, which meets all taps."""
    for padding in dict.fromkeys(call.op.padding for call in kernels):
        chosen = [_dimension(i, padding, kernels, places) for i in range(kernels[0].op.rank)]
        if None not in chosen:
            return padding, *(tuple(x) for x in zip(*chosen, strict=True))
    raise Unfit("the taps of its branches meet other positions: padding, strides and dilation do not fit")


def _dimension(i: int, padding: str, kernels: Sequence[Call], places):
    wanted = {x for offsets in places for x in offsets[i]}
    lengths: set[object] = set()
    if len(places) > len(kernels):
        n = _sizes(kernels[0])[i]
        lengths.add(("open", 0) if n is None else n)
    shapes = [
        (_sizes(call)[i], op.kernel_size[i], op.strides[i], op.dilation_rate[i], op.padding)
        for call, op in ((call, call.op) for call in kernels)
    ]
    lengths |= {_length(own, *shape) for *shape, own in shapes}
    for n, k, s, d, _ in shapes:
        taps = _taps(padding, n, k, s, d)
        if wanted <= set(taps) and lengths == {_length(padding, n, k, s, d)}:
            return k, d if k > 1 else 1, taps
    return None
