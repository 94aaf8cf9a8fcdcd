"""Choices that differ in kind from the one of least damage.

Damages are measured apart and before the training; where two choices are near to each other, a short training of both
tells more than the next decimal.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from tfstruct.compression.alternatives.alternative import At, Part
from tfstruct.compression.alternatives.solver import Choice
from tfstruct.compression.steps.step import kinds
from tfstruct.errors import ArgumentError, BudgetError

_MOST = 1.5  # times the damage of the best choice: one that loses more is no rival


@dataclasses.dataclass(frozen=True)
class Rival:
    """A choice, and what it was asked for with.

    Attributes:
        choice: of least damage.
        fixed, excluded: as in `solver.choose`.
    """

    choice: Choice
    fixed: Mapping[str, int]
    excluded: Collection[At]


def rivals(
    best: Choice,
    parts: Sequence[Part],
    damages: Mapping[str, np.ndarray],
    asked: Callable[..., Choice],
    *,
    fixed: Mapping[str, int] | None = None,
    excluded: Collection[At] = (),
) -> tuple[Rival, ...]:
    """The best choices without one of the kinds of changes that the best one makes, and with one that it does not make
    and that makes room for the others (resolution, blocks); those that lose little more, the best first.

    Args:
        best: the choice of least damage.
        parts, damages: what may be, what that loses.
        asked: `solver.choose` within the same limits, of `fixed=` and `excluded=`.
        fixed, excluded: what is given for all.
    """
    fixed, used = dict(fixed or {}), {part.kind for part in best.changes(parts)}
    room = {kind.kind for kind in kinds() if kind.makes_room}
    found: list[Rival] = []
    for kind in dict.fromkeys(part.kind for part in parts):
        own = [(part.name, i) for part in parts if part.kind == kind for i in range(1, len(part.alternatives))]
        ways: list[tuple[dict[str, int], set[At]]] = []
        if kind in used:
            ways = [(fixed, {*excluded, *own})]
        elif kind in room:
            ways = [
                ({**fixed, name: i}, set(excluded)) for name, i in own
                if (name, i) not in excluded and damages[name][i] <= _MOST * best.damage
            ]  # fmt: skip
        for given, without in ways:
            try:
                one = asked(fixed=given, excluded=without)
            except (BudgetError, ArgumentError):  # no choice like that is within the limits
                continue
            known = [best, *(rival.choice for rival in found)]
            if one.damage <= _MOST * best.damage and all(one.picked != other.picked for other in known):
                found.append(Rival(one, given, without))
    return tuple(sorted(found, key=lambda rival: rival.choice.damage))
