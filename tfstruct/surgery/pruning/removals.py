"""Removals of a few channels each, in one order, and how many of them it takes to meet a budget."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from tfstruct.errors import PlanError
from tfstruct.graph import Graph, Group
from tfstruct.graph.blocks import atoms, mean_score
from tfstruct.graph.groups import last_units
from tfstruct.patterns import matches

COSTS = ("macs", "params", "tflite_bytes", "peak_memory")


@dataclasses.dataclass(frozen=True)
class Removal:
    """Units of one group that are removed together, down to its next allowed width.

    Attributes:
        group: index in the list of groups.
        units: the units that are removed.
        score: mean importance of these units, at least that of the removal before.
        share: removed share of the group's width after this removal.
    """

    group: int
    units: tuple[int, ...]
    score: float
    share: float


def removals_of(
    graph: Graph,
    groups: Sequence[Group],
    scores: np.ndarray,
    round_to: int | Mapping[str, int] | None,
    min_channels: int | Mapping[str, int],
    max_ratio: float | Mapping[str, float],
    exclude: Sequence[str],
    gone: np.ndarray,
) -> list[list[Removal]]:
    """The possible removals of each group, the least important channels first.

    Args:
        scores: importance, by unit.
        gone: boolean mask of the units that are removed already.
    """
    makers = list(graph.makes)
    for pattern in exclude:
        if not any(matches(pattern, maker) for maker in makers):
            raise PlanError(f"`exclude` names `{pattern}`, but no layer of that name makes channels.")
    kinds = {call.path: type(call.op).__name__ for call in graph.calls}
    _check_names(makers, kinds, round_to, min_channels, max_ratio)
    held = last_units(graph, scores, min_channels, gone)
    found: list[list[Removal]] = []
    for place, group in enumerate(groups):
        if excluded(group, exclude):
            found.append([])
            continue
        left = group.free[~gone[group.free]]
        if not np.isfinite(scores[left]).all():
            raise PlanError(
                f"The criterion cannot judge the channels of `{group.name}` (bn_scale needs a batch norm there). Take "
                "another criterion, or exclude it."
            )
        free = np.array([u for u in left.tolist() if u not in held], int)
        most = math.floor(_of(max_ratio, group, 1.0, "max_ratio") * group.width + 1e-9)
        multiple = _multiple(round_to, group, kinds, graph)
        removable = atoms(free, group.blocks, scores)
        found.append(_removals(place, group, removable, int(gone[group.units].sum()), most, multiple, scores))
    return found


def excluded(group: Group, exclude: Sequence[str]) -> bool:
    """Whether one of the patterns names a layer that makes its channels."""
    return any(matches(pattern, maker) for maker in group.makers for pattern in exclude)


def _check_names(makers, kinds, round_to, min_channels, max_ratio) -> None:
    for option, value in (("min_channels", min_channels), ("max_ratio", max_ratio)):
        for name in value if isinstance(value, Mapping) else ():
            if name not in makers:
                raise PlanError(f"`{option}` names `{name}`, but no layer of that name makes channels.")
    for kind in round_to if isinstance(round_to, Mapping) else ():
        # A table for a device lists types that a model may lack, but not types that do not exist.
        if kind not in kinds.values() and not hasattr(keras.layers, kind):
            raise PlanError(f"`round_to` names {kind}, which is no type of layer.")


def _removals(place, group, removable, gone, most, multiple, scores) -> list[Removal]:
    removals: list[Removal] = []
    waiting: list[int] = []
    least, width = -math.inf, group.width
    for atom in removable:
        if gone + len(atom) > most:
            break
        gone += len(atom)
        waiting += atom
        if (width - gone) % multiple == 0:
            least = max(least, mean_score(waiting, scores))
            removals.append(Removal(place, tuple(waiting), least, gone / width))
            waiting = []
    return removals


def _of(value, group: Group, default, name: str):
    if not isinstance(value, Mapping):
        return value
    chosen = [value[maker] for maker in group.makers if maker in value]
    return min(chosen) if chosen else default


def _multiple(round_to, group: Group, kinds, graph: Graph) -> int:
    """The number that kept widths are multiples of: `round_to` of the layers that make the group's channels."""
    if round_to is None:
        return 1
    multiple = 1
    for maker in group.makers:
        if maker not in kinds:  # `attention.heads` and its like are no channels of a kernel
            continue
        value = round_to if not isinstance(round_to, Mapping) else round_to.get(kinds[maker], 1)
        # Where a unit is several channels of the layer, that many come off at once.
        per_unit = max(1, len(graph.makes[maker]) // max(1, len(graph.units.of(graph.makes[maker]))))
        multiple = math.lcm(multiple, value // math.gcd(value, per_unit))
    return multiple


def local_share(
    groups: Sequence[Group], removals: list[list[Removal]], share: float, gone: np.ndarray
) -> list[Removal]:
    """The removals that take `share` of every group, to its nearest allowed width."""
    chosen = []
    for group, own in zip(groups, removals, strict=True):
        shares = [float(gone[group.units].mean()), *(removal.share for removal in own)]
        best = min(range(len(shares)), key=lambda i: (abs(shares[i] - share), -i)) if group.prunable else 0
        chosen += own[:best]
    return chosen


def ordered(removals: list[list[Removal]], scope: str) -> list[Removal]:
    """All removals in order: by importance across groups, or, if `scope` is local, by share within each group."""
    key = (lambda removal: removal.score) if scope == "global" else (lambda removal: removal.share)
    return sorted((removal for own in removals for removal in own), key=key)


def first_that_meets(order: Sequence[Removal], fits: Callable[[int], bool]) -> int | None:
    """The smallest number of removals that meets the budget, by bisection; None if all of them do not."""
    if fits(0):
        return 0
    if not fits(len(order)):
        return None
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
