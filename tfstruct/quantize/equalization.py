"""`equalize`: makes the ranges of channels alike across layers, without changing the function."""

import dataclasses
import math
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from tfstruct.arguments import checked
from tfstruct.errors import ArgumentError
from tfstruct.graph import Call, Graph, trace
from tfstruct.graph.channelwise import ends
from tfstruct.graph.contraction import SEPARABLE, plain
from tfstruct.graph.linear_layers import (
    Affine,
    Arrays,
    arrays,
    axes,
    before,
    behind,
    has_activation,
    is_linear,
    norm_arrays,
)  # fmt: skip
from tfstruct.graph.opening import open_by_itself
from tfstruct.graph.operation_traits import function_traits, traits_of
from tfstruct.graph.traits import ANY
from tfstruct.graph.wiring import Remake, Unfit, Wiring
from tfstruct.quantize.equalization_report import Equalization, Evened
from tfstruct.quantize.preactivations import moments
from tfstruct.reporting import carrying

# f(s x) = s f(x) for s > 0.
_CONVERGED, _MOST_SWEEPS = 1e-3, 200
# A channel whose weights are so small beside those of the others, and beside its own bias, is a constant: weights made
# as large as the others' would take its bias with them, and the range of the activation.
_DEAD = 1e-3


@checked
def equalize(
    model: keras.Model,
    *,
    absorb=None,
    deviations: float = 3.0,
    batch_size: int = 32,
    report: Callable[[Equalization], None] | None = None,
    open_layers: str | bool = "auto",
) -> keras.Model:
    """Scales channels down in one layer and up in the next, so that the channels of a kernel have like ranges.

    For a layer and those that read it over ReLU, LeakyReLU, PReLU or no activation, pooling, padding or flattening,
    with r1 the largest magnitude among the weights that make a channel and r2 among those that read it:
    `s = sqrt(r1 / r2)`, `W1' = W1 / s, b1' = b1 / s, W2' = W2 s`, so that both become sqrt(r1 r2); sweep after sweep
    over all pairs until no s is off 1 by more than a thousandth. A channel whose weights are below a thousandth of its
    bias, and of the layer's largest, is as good as constant and stays as it is. It pays where channels share one scale:
    activations always do, kernels where a scheme has one for the whole of them. A batch norm behind the first layer
    takes 1 / s in its gamma and beta; it goes on working in inference only.

    With `absorb`, large biases move on: `c = max(0, mean - deviations * deviation)` of a channel before its ReLU,
    `b1' = b1 - c, b2' = b2 + W2 c`. This is equal where the channel is at least c, so for nearly all samples, and is
    left out where the next layer pads with zeros.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        absorb: how mean and deviation are known: data (see `calibrate`), or `"batch_norm"`: beta and |gamma| of the
            batch norm behind the first layer; None: biases stay.
        deviations: see above.
        report: called with what was done and what was left alone, and why: `report=print`.
        open_layers: `"auto"` opens custom layers, so that channels inside are scaled too: they are opened in the new
            model. False: none.

    Returns:
        A new model that computes the same; `.report` is its `Equalization`.

    Raises:
        ModelError: the model's graph cannot be walked (a subclassed model).

    Source: Nagel et al. 2019, Data-free quantization through weight equalization and bias correction,
    arXiv:1906.04721, Eq. 9 to 12 and 15.

    Example:
        >>> equal = tfstruct.quantize.equalize(model)
        >>> np.allclose(equal(x), model(x), atol=1e-5)
        True
    """
    if isinstance(absorb, str) and absorb != "batch_norm":
        raise ArgumentError(f"`absorb` must be data, 'batch_norm' or None. Received: {absorb!r}.")
    opened = open_by_itself(model, open_layers)
    graph = trace(opened.model)
    work = _Equalizing(graph)
    before_it = work.evenness()
    sweeps = work.even()
    after = work.evenness()
    if absorb is not None:
        known = (
            None
            if isinstance(absorb, str)
            else moments(graph, absorb, [p.firsts[0].op for p in work.pairs], batch_size)
        )
        work.absorb(known, deviations)
    made = work.model()
    evened = tuple(
        Evened(pair.path, tuple(call.path for call, _, _ in pair.seconds), *old, *new)
        for pair, old, new in zip(work.pairs, before_it, after, strict=True)
    )
    done = Equalization(
        evened, tuple(work.absorbed), tuple(work.skipped), sweeps, opened=opened.opened, opaque=opened.closed
    )
    if report is not None:
        report(done)
    return carrying(made, done)


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A layer, or the batch norm behind it, and the layers that read its channels.

    Attributes:
        firsts: the calls of the first.
        axis: of its channels in its output.
        feeding: the linear layer before it, where the first is a batch norm.
        seconds: (call, channel of each position of its input, axis there), each layer once.
    """

    firsts: list[Call]
    axis: int
    feeding: Call | None
    seconds: list[tuple[Call, np.ndarray, int]]

    @property
    def path(self) -> str:
        return (self.feeding or self.firsts[0]).path

    @property
    def channels(self) -> int:
        return self.firsts[0].shapes[0][self.axis]


class _Equalizing:
    """The weights of a model while they are equalized.

    Attributes:
        values: id of a layer -> its weights by attribute.
        scales: id of a pair's first layer -> what its channels have been divided by.
    """

    def __init__(self, graph: Graph):
        self.wiring, self.graph = Wiring(graph), graph
        self.values: dict[int, Arrays] = {}
        self.configs: dict[int, dict] = {}
        self.skipped: list[tuple[str, str]] = []
        self.absorbed: list[tuple[str, int]] = []
        self.pairs: list[_Pair] = []
        for calls in self.wiring.operations():
            if not is_linear(calls[0]):
                continue
            try:
                self.pairs.append(self._pair(calls))
            except Unfit as reason:
                self.skipped.append((calls[0].path, str(reason)))
        self.scales = {id(pair.firsts[0].op): np.ones(pair.channels) for pair in self.pairs}
        self.dead = [self._is_dead(pair) for pair in self.pairs]

    # Which layers go together

    def _pair(self, calls: list[Call]) -> _Pair:
        feeding, firsts = None, calls
        norms = [norm for call in calls if (norm := self._norm_behind(call)) is not None]
        if len(norms) == len(calls) and all(norm.op is norms[0].op for norm in norms):
            feeding, firsts = calls[0], norms
        first = firsts[0]
        axis = first.op.axis % first.input.rank if feeding else _axis(first)
        function = getattr(first.op, "activation", None)
        if not function_traits(function).homogeneous:
            raise Unfit(f"its activation {getattr(function, '__name__', function)} does not scale with its input")
        index = Affine(np.arange(first.shapes[0][axis], dtype=float), np.zeros(first.shapes[0][axis]))
        found = [end for call in firsts for end in ends(self.wiring, call, index, axis, _homogeneous)]
        if not found:
            raise Unfit("nothing reads it")
        self._check(firsts, [call for call, _, _ in found])
        seconds = {id(call.op): (call, affine.scale.astype(int), axis) for call, affine, axis in found}
        pair = _Pair(firsts, axis, feeding, list(seconds.values()))
        self._ranges(pair)  # Unfit where a kernel lacks the channels' axis
        return pair

    def _norm_behind(self, call: Call) -> Call | None:
        try:
            reader = self.wiring.reader(call)
        except Unfit:
            return None
        alone = plain(reader, layers.BatchNormalization) and not has_activation(call)
        return reader if alone and reader.op.axis % reader.input.rank == _axis(call) else None

    def _check(self, firsts: list[Call], seconds: list[Call]) -> None:
        for calls in (firsts, seconds):
            for call in calls:
                if sum(one.op is call.op for one in calls) != len(self.wiring.calls[id(call.op)]):
                    raise Unfit(f"`{call.path}` is shared with places where its channels are others")
                self.wiring.check_owner(call)

    # Ranges and scales

    def _of(self, op) -> Arrays:
        if id(op) not in self.values:
            self.values[id(op)] = norm_arrays(op) if isinstance(op, layers.BatchNormalization) else arrays(op)
        return self.values[id(op)]

    def _ranges(self, pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
        """r1 and r2, by channel."""
        every = np.arange(pair.channels)
        if pair.feeding is None:
            first = pair.firsts[0]
            made = _largest(first, self._of(first.op), behind, every, pair.axis)
        else:
            norm = pair.firsts[0].op
            made = _largest(pair.feeding, self._of(pair.feeding.op), behind, every, pair.axis)
            values = self._of(norm)
            made = made * np.abs(values["gamma"]) / np.sqrt(values["moving_variance"] + norm.epsilon)
        read = np.zeros(pair.channels)
        for call, channel, axis in pair.seconds:
            np.maximum.at(read, channel, _largest(call, self._of(call.op), before, np.arange(len(channel)), axis))
        return made, read

    def _is_dead(self, pair: _Pair) -> np.ndarray:
        """Mask of the channels whose weights contribute next to nothing beside the bias and the other channels."""
        values, (made, _) = self._of(pair.firsts[0].op), self._ranges(pair)
        shift = values.get("bias", 0.0)
        if pair.feeding is not None:
            deviation = np.sqrt(values["moving_variance"] + pair.firsts[0].op.epsilon)
            centred = self._of(pair.feeding.op).get("bias", 0.0) - values["moving_mean"]
            shift = values["beta"] + centred * values["gamma"] / deviation
        if np.size(shift) != pair.channels:  # an einsum's bias by position
            return np.zeros(pair.channels, bool)
        return made < _DEAD * np.minimum(made.max(), np.abs(np.ravel(shift)))

    def evenness(self) -> list[tuple[float, float]]:
        """For each pair, the mean of r / max r over the channels, of the weights that make them and of those that read
        them (p in Eq. 8)."""
        return [(_evenness(made), _evenness(read)) for made, read in map(self._ranges, self.pairs)]

    def even(self) -> int:
        """Equalizes all pairs until nothing changes; returns the number of sweeps."""
        for sweep in range(1, _MOST_SWEEPS + 1):
            moved = 0.0
            for pair, dead in zip(self.pairs, self.dead, strict=True):
                made, read = self._ranges(pair)
                alive = (made > 0) & (read > 0) & ~dead
                s = np.sqrt(np.divide(made, read, out=np.ones_like(made), where=alive))
                moved = max(moved, float(np.abs(s - 1).max()))
                self._put(
                    pair,
                    Affine(1 / s, np.zeros_like(s)),
                    [(c, Affine(s[i], np.zeros(len(i))), a) for c, i, a in pair.seconds],
                )
                self.scales[id(pair.firsts[0].op)] *= s
            if moved < _CONVERGED:
                return sweep
        return _MOST_SWEEPS

    def _put(self, pair: _Pair, first: Affine, seconds: list[tuple[Call, Affine, int]]) -> None:
        """Inserts `first` behind the pair's first layer, and each of the others in front of a layer that reads it."""
        call = pair.firsts[0]
        new = {id(call.op): _behind(call, self._of(call.op), first, pair.axis)}
        for second, affine, axis in seconds:
            new[id(second.op)] = _without_idle_bias(
                self._of(second.op), *before(second, self._of(second.op), affine, axis)
            )
        for key, (values, config) in new.items():
            self.values[key] = values
            self.configs.setdefault(key, {}).update(config)

    # Biases

    def absorb(self, known: dict[int, tuple[np.ndarray, np.ndarray]] | None, deviations: float) -> None:
        """`known`: id of a layer -> mean and deviation of its channels before the activation; None: by batch norm."""
        for pair in self.pairs:
            first = pair.firsts[0]
            try:
                mean, deviation = self._moments(pair) if known is None else known[id(first.op)]
                c = np.maximum(0.0, mean - deviations * deviation) / self.scales[id(first.op)]
                if not c.any():
                    continue
                shift = Affine(np.ones_like(c), c)
                found = [end for call in pair.firsts for end in ends(self.wiring, call, shift, pair.axis, _homogeneous)]
                once = {id(call.op): (call, affine, axis) for call, affine, axis in found}
                self._put(pair, Affine(np.ones_like(c), -c), list(once.values()))
                self.absorbed.append((pair.path, int((c > 0).sum())))
            except Unfit as reason:
                self.skipped.append((pair.path, f"its bias stays: {reason}"))

    def _moments(self, pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
        if pair.feeding is None:
            raise Unfit("there is no batch norm behind it; give `absorb` data")
        values = norm_arrays(pair.firsts[0].op)
        return values["beta"], np.abs(values["gamma"])

    def model(self) -> keras.Model:
        remake = Remake(self.graph)
        changed = {id(c.op): c.op for p in self.pairs for c in (p.firsts[0], *(call for call, _, _ in p.seconds))}
        for key, op in changed.items():
            remake.replace(op, self.values[key], self.configs.get(key))
        return remake.model()


def _evenness(ranges: np.ndarray) -> float:
    """Mean of r / max r; 1 where all are zero."""
    return float(np.mean(ranges / ranges.max())) if ranges.max() > 0 else 1.0


def _axis(call: Call) -> int:
    return len(call.shapes[0]) - 1 if isinstance(call.op, layers.EinsumDense) else axes(call)[1]


def _largest(call: Call, values: Arrays, put: Callable, channels: np.ndarray, axis: int) -> np.ndarray:
    """Largest magnitude among the weights of each channel, along an axis of the layer's output or input.

    Putting the channels' numbers into a kernel of ones shows which channel each weight belongs to.
    """
    name = "kernel"
    if isinstance(call.op, SEPARABLE):
        name = "pointwise_kernel" if put is behind else "depthwise_kernel"
    ones = {key: np.ones_like(value) for key, value in values.items()}
    numbers = put(call, ones, Affine(channels.astype(float), np.zeros(len(channels))), axis)[0][name]
    largest = np.zeros(len(channels))
    np.maximum.at(largest, numbers.astype(int), np.abs(values[name]))
    return largest


def _behind(call: Call, values: Arrays, affine: Affine, axis: int) -> tuple[Arrays, dict]:
    if isinstance(call.op, layers.BatchNormalization):
        scaled = {"gamma": values["gamma"] * affine.scale, "beta": values["beta"] * affine.scale + affine.shift}
        return {**values, **scaled}, {"scale": True, "center": True}
    return _without_idle_bias(values, *behind(call, values, affine, axis))


def _without_idle_bias(old: Arrays, new: Arrays, config: dict) -> tuple[Arrays, dict]:
    """Drops a bias that the layer did not have and that would be zero."""
    if "bias" in new and "bias" not in old and not np.any(new["bias"]):
        return {name: value for name, value in new.items() if name != "bias"}, {}
    return new, config


def _homogeneous(call: Call) -> bool:
    """Whether f(s x) = s f(x) for each s > 0. Raises Unfit for a ReLU with a cap or a threshold."""
    op = call.op
    traits = traits_of(op)
    if plain(call, layers.ReLU) and op.threshold:
        raise Unfit(f"`{call.path}` has a threshold, which does not scale")
    limit = (traits.passes or ANY)[1]
    if traits.elementwise and limit != math.inf:
        raise Unfit(f"`{call.path}` clips at {limit:g}, which does not scale; a ReLU without a limit would")
    return traits.elementwise and traits.homogeneous
