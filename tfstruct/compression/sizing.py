"""How a model gets small enough: how many channels go, and how many bits the weights of the rest have."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfstruct.analyze import Costs, unit_scores
from tfstruct.analyze.names import by_name
from tfstruct.callbacks.channel_masks import lossless_groups
from tfstruct.compression.four_bits import FileSize
from tfstruct.compression.precision_choice import WeightBits, choose_precision
from tfstruct.compression.task import Task
from tfstruct.errors import BudgetError, ModelError
from tfstruct.graph import Graph, Group, trace
from tfstruct.graph.frozen import frozen_makers, groups_without_frozen
from tfstruct.surgery.pruning.planner import Options, Planner

_MARGIN = 0.97  # share of a latency limit that is planned for: the result is measured again
_RUNGS, _SHARE = 4, 0.75  # without a figure in the budget: up to 4 pruning steps, each keeps 75 % of the MACs
_NEAR = 0.92  # if a plan uses less than 92 % of a limit, the width multiple is too coarse: try a finer one
_MORE = 1.05  # a finer width multiple is taken only if it keeps 5 % more capacity
_HALVINGS = 12  # steps of the bisection for the size of the int8 file
_NAMES = {"macs": "multiply-accumulates", "params": "parameters"}
_MOST = 0.875  # largest share of a group's channels that is removed: a layer with fewer left is better dropped
_EXACT = 0.98  # share of a size limit that is planned for: what 4 bits save is estimated to about 1 %


@dataclasses.dataclass(frozen=True)
class Sizing:
    """How a model gets small enough.

    Attributes:
        channels: the settings of each `PruneChannels` step, in order; empty where no channel goes.
        bits: of the weights of the file.
        reason: why channels go, or do not, in words.
        wanted: the limits that channel pruning has to meet.
        least: the smallest figures that channel pruning can reach, where it cannot meet the limits; else None.
        capacity: share of the original that stays: geometric mean of the shares of multiply-accumulates and parameters.
    """

    channels: tuple[Mapping[str, Any], ...]
    bits: WeightBits
    reason: str
    wanted: Mapping[str, float]
    least: Mapping[str, float] | None = None
    capacity: float = 0.0

    @property
    def missed(self) -> dict[str, float]:
        """The figures that channels cannot meet, and the least that they reach."""
        return {name: least for name, least in (self.least or {}).items() if least > self.wanted[name]}


def graph_limits(task: Task) -> dict[str, float]:
    """The limits that the original exceeds and that only channel pruning can meet: all but the size of the file.

    Raises:
        BudgetError: the arena is limited, but the peak memory, from which its limit is derived, cannot be counted.
    """
    limits, original, plain = task.limits.figures, task.original, task.plain
    found = {
        name: limits[name]
        for name in ("macs", "params", "peak_memory")
        if name in limits and limits[name] < getattr(original, name)
    }
    arena = plain.arena_bytes or 0
    if limits.get("arena_bytes", np.inf) < arena:
        share = limits["arena_bytes"] / arena
        found["peak_memory"] = min(share * _peak_memory(task.graph), found.get("peak_memory", np.inf))
    if limits.get("latency_us", np.inf) < task.measure.reference_us:
        found["latency_us"] = _MARGIN * limits["latency_us"]
    return found


def _peak_memory(graph: Graph) -> float:
    try:
        return Costs(graph, ("peak_memory",))()["peak_memory"]
    except ModelError as error:
        raise BudgetError(
            f"Channels meet a limit on `arena_bytes` by the peak memory of the graph. {error} Limit `tflite_bytes` or "
            "`latency_us` instead."
        ) from error


def size_limit(task: Task) -> float:
    """The most bytes that the file may have. gzip is assumed to save the same share as on the plain int8 file."""
    limits, plain = task.limits.figures, task.plain
    by_gzip = plain.tflite_bytes * limits.get("gzip_bytes", plain.gzip_bytes) / plain.gzip_bytes
    return min(limits.get("tflite_bytes", plain.tflite_bytes), by_gzip)


def choose_channels(task: Task, model: keras.Model, four_bits: bool = True) -> Sizing:
    """Plans channel pruning until the limits of the graph are met; then 4-bit weights, if `four_bits`, where they can
    meet the size of the file; then more channel pruning where they cannot."""
    return _Choice(task, model, four_bits).made()


class _Choice:
    def __init__(self, task: Task, model: keras.Model, four_bits: bool):
        self.task, self.four_bits = task, four_bits
        self.graph = trace(model)
        self.every = tuple(groups_without_frozen(self.graph, by_name(self.graph)).values())
        self.lossless = tuple(lossless_groups(self.graph, (), frozen=False)[0].values())
        self.scores = unit_scores(self.graph, "l2", missing="keep")
        self.size = FileSize(self.graph, FileSize.of_file(task.graph, task.plain.tflite_bytes).offset)
        self.all = np.ones(self.graph.units.count, bool)
        self.trains = task.settings.epochs > 0

    def made(self) -> Sizing:
        wanted, limit = graph_limits(self.task), size_limit(self.task)
        free = any(group.prunable for group in self.every)
        found = self._planned(wanted) if wanted and free else None
        keep = self.all if found is None or found.keep is None else found.keep
        bits = choose_precision(self.task, self.size, keep, limit, self.four_bits)
        if self.size(keep, bits.four_bits) > limit:
            size = self._equivalent(limit, bits.four_bits)
            found = self._planned({**wanted, "tflite_bytes": size + self.size.offset}) if free else None
            wanted = {**wanted, "tflite_bytes": size}
        if not free and wanted:
            why = "no channel can go: " + "; ".join(f"{group.name}: {group.reason}" for group in self.every[:3])
            return Sizing((), bits, why, wanted, {})
        if found is None:  # nothing is wanted of channels
            return self._without_figures(bits)
        if found.keep is None:
            offsets = {"tflite_bytes": self.size.offset}
            least = {name: value - offsets.get(name, 0.0) for name, value in found.least.items()}
            missed = ", ".join(f"{name} {value:,.0f}" for name, value in least.items())
            why = f"channels get no further than {missed}{self._frozen}"
            return Sizing((), bits, why, wanted, least)
        asked = ", ".join(f"{name} {value:,.0f}" for name, value in wanted.items())
        why = f"channels go {found.how} until {asked} is met{found.widths}{self._frozen}"
        settings = {"budget": wanted, **found.settings}
        return Sizing((settings,), bits, why, wanted, capacity=found.capacity)

    def _without_figures(self, bits: WeightBits) -> Sizing:
        if self.task.limits.figures:
            capacity = self._capacity(Costs(self.graph, ("macs", "params")).known())
            return Sizing((), bits, "the budget is met without", {}, capacity=capacity)
        if not self.trains or not any(group.prunable for group in self.every):
            why = "the budget names no figure, and nothing is trained that could make up for lost channels"
            return Sizing((), bits, why, {})
        figure = "params" if self.task.original.macs is None else "macs"
        found = self._planned({figure: _SHARE})
        rungs = max(1, min(_RUNGS, self.task.settings.epochs // 2))
        why = (
            f"the budget names no figure: up to {rungs} times a quarter of the {_NAMES[figure]} goes {found.how}, "
            f"as long as the quality allows{found.widths}{self._frozen}"
        )
        settings = {"budget": {figure: _SHARE}, "optional": True, **found.settings}
        return Sizing((settings,) * rungs, bits, why, {})

    @property
    def _frozen(self) -> str:
        layers = list(frozen_makers(self.graph))
        more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
        return f"; channels of frozen layers stay: {', '.join(layers[:3])}{more}" if layers else ""

    def _capacity(self, left: Mapping[str, float]) -> float:
        """Multiply-accumulates that cannot be counted are assumed to shrink as the parameters do."""
        original = self.task.original
        parameters = left["params"] / original.params
        macs = parameters if original.macs is None else left["macs"] / max(original.macs, 1)
        return float(np.sqrt(macs * parameters))

    def _planned(self, wanted: Mapping[str, float]) -> "_Planned":
        """The plan with the coarsest width multiple that wastes little; pruned while training where that can meet the
        limits, else at once."""
        best = None
        for multiple in _multiples(self.every):
            for gradual in (True, False) if self.trains and self.lossless else (False,):
                made = self._with(wanted, multiple, gradual)
                if made.keep is not None:
                    if best is None or made.capacity > _MORE * best.capacity:
                        best = made
                    break
            if best is not None and best.near >= _NEAR:
                break
        return made if best is None else best

    def _with(self, wanted: Mapping[str, float], multiple: int, gradual: bool) -> "_Planned":
        some = self.lossless if gradual else self.every
        options = Options(dict(wanted), round_to=multiple, max_ratio=_MOST, latency=self.task.latency_of)
        planner = Planner(self.graph, some, options)
        try:
            keep, after = planner.choose(self.scores)
        except BudgetError as error:
            return _Planned(None, multiple, gradual, self.trains, least=error.least)
        limits = planner.limits
        assert isinstance(limits, Mapping)  # as `wanted` is
        near = max(after[name] / limit for name, limit in limits.items())
        return _Planned(keep, multiple, gradual, self.trains, near, self._capacity(after))

    def _equivalent(self, limit: float, four_bits: Sequence[str]) -> float:
        """The size of the int8 file at which the file with these layers in 4 bits has `limit` bytes; by bisection."""
        low, high, limit = limit, self.size(), _EXACT * limit
        for _ in range(_HALVINGS if four_bits else 0):
            middle = (low + high) / 2
            made = self._with({"tflite_bytes": middle + self.size.offset}, 1, gradual=False)
            fits = made.keep is not None and self.size(made.keep, four_bits) <= limit
            low, high = (middle, high) if fits else (low, middle)
        return low


@dataclasses.dataclass(frozen=True)
class _Planned:
    """One plan: the units that stay (None where the limits are out of reach), and the settings it was made with."""

    keep: np.ndarray | None
    multiple: int
    gradual: bool
    trains: bool
    near: float = 0.0
    capacity: float = 0.0
    least: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def settings(self) -> dict:
        multiple = self.multiple if self.multiple > 1 else None
        return {"gradual": self.gradual, "round_to": multiple, "max_ratio": _MOST}

    @property
    def how(self) -> str:
        if self.gradual:
            return "while the model trains"
        return "at once, as training can drive too few to zero," if self.trains else "at once"

    @property
    def widths(self) -> str:
        return f"; widths stay multiples of {self.multiple}, which kernels are fast with" if self.multiple > 2 else ""


def _multiples(every: Sequence[Group]) -> tuple[int, ...]:
    """Width multiples to try, the coarsest first; fine ones only where no layer is wide."""
    widest = max(group.width for group in every if group.prunable)
    return (8, 4, 2, 1) if widest >= 32 else (4, 2, 1) if widest >= 16 else (1,)
