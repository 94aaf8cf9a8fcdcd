"""Layers to factorize: which can be, what their kernels cost as they are and as factors, in which forms they may be."""

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np

from tfstruct.graph import Call, Graph
from tfstruct.graph.contraction import plain
from tfstruct.graph.operation_traits import layers_with
from tfstruct.surgery.factor.factor_layers import macs_of, misplaced
from tfstruct.surgery.factor.factors import Factors, Rank
from tfstruct.surgery.factor.methods import factors_of


@dataclasses.dataclass
class Target:
    """A layer to factorize, with all its calls."""

    path: str
    calls: list[Call]
    factors: Factors

    @property
    def layer(self):
        return self.calls[0].op

    def size(self, rank: Rank | None = None) -> int:
        """Parameters of the layer as it is, or of its factors."""
        bias = 0 if self.layer.bias is None else math.prod(self.layer.bias.shape)
        stages = None if rank is None else self.factors.stages(rank)
        return bias + (self.factors.kernel.size if stages is None else sum(stage.size for stage in stages))

    def macs(self, rank: Rank | None = None) -> float:
        """Multiply-accumulates of all calls; NaN if sizes are open."""
        if rank is not None:
            return sum(macs_of(call, self.factors.stages(rank)) for call in self.calls)
        total = 0.0
        for call in self.calls:
            positions = [n for i, n in enumerate(call.shapes[0]) if i not in (0, _channels(self.layer, call))]
            total += math.nan if None in positions else math.prod(positions) * self.factors.kernel.size
        return total


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to factorize a layer.

    Attributes:
        method, rank: as `factorize` takes them.
        params, macs: of the factors.
        error: ||W - W'||_F / ||W||_F, or an upper bound of it.
    """

    method: str
    rank: Rank
    params: int
    macs: float
    error: float

    def as_good_as(self, other: "Form") -> bool:
        """Whether it costs no more than another form, and its error is no larger but for rounding."""
        return self.params <= other.params and self.macs <= other.macs and self.error <= other.error + 1e-6


def forms_of(path: str, calls: list[Call], methods: Sequence[str], shares: Sequence[float]) -> list[Form]:
    """The forms of a layer that save parameters and multiply-accumulates: of each method ranks that make about
    some shares of its parameters; without those that another one is as good as.

    Args:
        path, calls: of the layer.
        shares: of the parameters of the layer as it is.
    """
    if unusable(calls[0]):
        return []
    found: dict[tuple[str, Rank], Form] = {}
    for method in methods:
        factors = factors_of(kernel_of(calls[0].op), method)
        if isinstance(factors, str) or misplaced(calls, factors.stages(factors.full)):
            continue
        target = Target(path, calls, factors)
        before, work, norm2 = target.size(), target.macs(), factors.norm2 or 1.0
        sizes = {rank: target.size(rank) for rank in factors.ranks()}
        for share in shares:
            _, nearest = min((abs(size - share * before), rank) for rank, size in sizes.items())
            rank = tuple(_rounded(r, most) for r, most in zip(nearest, factors.full, strict=True))
            if target.size(rank) < before and not target.macs(rank) >= work:
                error = math.sqrt(max(factors.error2(rank), 0.0) / norm2)
                found[method, rank] = Form(method, rank, target.size(rank), target.macs(rank), error)
    best: list[Form] = []
    for form in found.values():
        if not any(other.as_good_as(form) for other in best):
            best = [other for other in best if not form.as_good_as(other)] + [form]
    return best


def _rounded(rank: int, most: int) -> int:
    """A rank that kernels are fast with, near a wanted one."""
    multiple = 8 if rank >= 16 else 4 if rank >= 8 else 1
    return min(max(multiple * round(rank / multiple), 1), most)


def by_path(graph: Graph) -> dict[str, list[Call]]:
    """Calls of each layer, by the path of its first call."""
    calls: dict[int, list[Call]] = {}
    for call in graph.calls:
        calls.setdefault(id(call.op), []).append(call)
    return {own[0].path: own for own in calls.values()}


def unusable(call: Call) -> str | None:
    """Reason why a layer cannot be factorized, or None."""
    if not isinstance(call.op, layers_with("dense", "conv")):
        return f"{type(call.op).__name__} is no dense layer and no convolution"
    if not plain(call, *layers_with("dense", "conv")):
        return "it is quantized, has LoRA weights, or a call of its own"
    if getattr(call.op, "groups", 1) > 1:
        return f"its kernel is in {call.op.groups} groups"
    return None


def kernel_of(layer) -> np.ndarray:
    """The kernel of a layer in float32, or in float64 where it has that."""
    value = keras.ops.convert_to_numpy(layer.kernel)
    return value if value.dtype == np.float64 else value.astype(np.float32)


def _channels(layer, call: Call) -> int:
    last = len(call.shapes[0]) - 1
    return 1 if getattr(layer, "data_format", None) == "channels_first" else last
