"""Strategies along the front: the choices of least predicted damage within shares of all limits together."""

from collections.abc import Iterable, Mapping, Sequence

from tfstruct.compression.alternatives.choosing import planned_limits, strategy_of
from tfstruct.compression.alternatives.measured import measured
from tfstruct.compression.alternatives.offered import conflicts_of
from tfstruct.compression.alternatives.solver import choose
from tfstruct.compression.steps.step import Step
from tfstruct.compression.task import Task
from tfstruct.errors import BudgetError

_STRATEGIES = "strategies.json"


def front_strategies(task: Task, shares: Sequence[float], *, steps: int) -> tuple[tuple[Step, ...], ...]:
    """The choice of least damage within each share of the limits, as a strategy; shares that are out of reach, and
    choices that a larger share has found, are left out. They are decided on once and kept in the working folder, as
    measured latencies would choose otherwise the second time.

    Args:
        task: what has to be done.
        shares: of all limits; 1 is the budget itself.
        steps: of training of each alternative, as in `measured`.
    """
    place = task.folder.inner("alternatives").inner(f"front-{steps}-{'-'.join(f'{share:g}' for share in shares)}")
    found = place.read(_STRATEGIES, strategies_of, list)
    if found is None:
        found = _made(task, shares, steps)
        place.write(_STRATEGIES, [[step.to_dict() for step in one] for one in found])
    return tuple(found)


def strategies_of(stored: Iterable[Iterable[Mapping]]) -> list[tuple[Step, ...]]:
    """Strategies of what their steps say of themselves in a file."""
    return [tuple(Step.from_dict(step) for step in one) for one in stored]


def _made(task: Task, shares: Sequence[float], steps: int) -> list[tuple[Step, ...]]:
    known, limits = measured(task, steps=steps), planned_limits(task)
    figures = {name for table in known.tables for name in table.figures} | {"peak_memory"}
    found: list[tuple[Step, ...]] = []
    for share in shares:
        within = {name: share * limit for name, limit in limits.items() if name in figures}
        try:
            choice = choose(
                known.parts, known.tables, known.damages.parts, within, pairs=known.damages.pairs,
                conflicts=conflicts_of(known.parts), excluded=known.damages.failed, runners_up=0,
                prices=False,
            )  # fmt: skip
        except BudgetError:
            continue
        one = strategy_of(known.parts, choice, task.settings.epochs)
        if one not in found:
            found.append(one)
    return found
