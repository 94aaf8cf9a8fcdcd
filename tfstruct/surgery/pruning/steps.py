"""How much has to go: an order of steps, each a few channels of one group, and the first point that meets a budget."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from tfstruct.errors import PlanError
from tfstruct.graph import Graph, Group
from tfstruct.graph.blocks import atoms
from tfstruct.graph.groups import last_units
from tfstruct.patterns import matches

COSTS = ("macs", "params", "tflite_bytes", "peak_memory")


@dataclasses.dataclass(frozen=True)
class Step:
    """Units of one group that go together, to the next allowed width.

    Attributes:
        group: its place in the list of groups.
        units: what goes in this step.
        score: mean importance of these units, never below that of the step before.
        share: the share of the group's width that is gone after this step.
    """

    group: int
    units: tuple[int, ...]
    score: float
    share: float


def steps_of(
    graph: Graph,
    groups: Sequence[Group],
    scores: np.ndarray,
    round_to: int | Mapping[str, int] | None,
    min_channels: int | Mapping[str, int],
    max_ratio: float | Mapping[str, float],
    exclude: Sequence[str],
    gone: np.ndarray,
) -> list[list[Step]]:
    """For each group the steps by which it can shrink, the least important channels first; `gone`, boolean by unit, is
    what went before."""
    makers = list(graph.makes)
    for pattern in exclude:
        if not any(matches(pattern, maker) for maker in makers):
            raise PlanError(f"`exclude` names `{pattern}`, but no layer of that name makes channels.")
    kinds = {call.path: type(call.op).__name__ for call in graph.calls}
    _check_names(makers, kinds, round_to, min_channels, max_ratio)
    held = last_units(graph, scores, min_channels, gone)
    found: list[list[Step]] = []
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
        found.append(_steps(place, group, removable, int(gone[group.units].sum()), most, multiple, scores))
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


def _steps(place, group, removable, gone, most, multiple, scores) -> list[Step]:
    steps: list[Step] = []
    waiting: list[int] = []
    least = -math.inf
    for atom in removable:
        if gone + len(atom) > most:
            break
        gone += len(atom)
        waiting += atom
        if (group.width - gone) % multiple == 0:
            least = max(least, float(np.mean(scores[waiting])))
            steps.append(Step(place, tuple(waiting), least, gone / group.width))
            waiting = []
    return steps


def _of(value, group: Group, default, name: str):
    if not isinstance(value, Mapping):
        return value
    chosen = [value[maker] for maker in group.makers if maker in value]
    return min(chosen) if chosen else default


def _multiple(round_to, group: Group, kinds, graph: Graph) -> int:
    """Kept widths are multiples of this: what `round_to` asks of the layers that make the group's channels."""
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


def local_share(groups: Sequence[Group], steps: list[list[Step]], share: float, gone: np.ndarray) -> list[Step]:
    """The steps that take `share` of every group: the nearest width that the group can have."""
    chosen = []
    for group, own in zip(groups, steps, strict=True):
        shares = [float(gone[group.units].mean()), *(step.share for step in own)]
        best = min(range(len(shares)), key=lambda i: (abs(shares[i] - share), -i)) if group.prunable else 0
        chosen += own[:best]
    return chosen


def ordered(steps: list[list[Step]], scope: str) -> list[Step]:
    """All steps, those that go first in front: by importance across groups, or by share in each."""
    key = (lambda step: step.score) if scope == "global" else (lambda step: step.share)
    return sorted((step for own in steps for step in own), key=key)


def first_that_fits(order: Sequence[Step], fits: Callable[[int], bool]) -> int | None:
    """The smallest number of steps that meets the budget, by bisection; None if all of them do not."""
    if fits(0):
        return 0
    if not fits(len(order)):
        return None
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
