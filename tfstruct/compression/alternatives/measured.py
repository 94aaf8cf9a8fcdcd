"""What there is to choose from: the parts of a task, what their alternatives cost, and what they lose."""

import dataclasses
from collections.abc import Collection, Sequence

from tfstruct.compression.alternatives.alternative import Part
from tfstruct.compression.alternatives.cost_table import Cost
from tfstruct.compression.alternatives.cost_tables import cost_tables
from tfstruct.compression.alternatives.damage import Damages, measure_damages
from tfstruct.compression.alternatives.latency_tables import latency_tables
from tfstruct.compression.alternatives.offered import parts_of
from tfstruct.compression.alternatives.operator_times import OperatorTimes, TableTimes, Times
from tfstruct.compression.alternatives.variants import variants_of
from tfstruct.compression.task import Task
from tfstruct.convert.draft import draft


@dataclasses.dataclass(frozen=True)
class Measured:
    """What there is to choose from.

    Attributes:
        parts: with their alternatives.
        tables: what every choice costs.
        damages: what each alternative loses.
        lacking: operators that the device's table lacks, see `Times.lacks`.
    """

    parts: tuple[Part, ...]
    tables: tuple[Cost, ...]
    damages: Damages
    lacking: Collection[str]


def measured(task: Task, *, steps: int) -> Measured:
    """Measures what the alternatives of all parts of a task cost and lose, after so many steps of training of each;
    the damages are kept in the working folder."""
    parts = parts_of(task)
    task.progress.stage("measure what alternatives cost")
    times = times_of(task)
    tables = tables_of(task, parts, times)
    damages = measure_damages(task, parts, steps=steps, folder=task.folder.inner("alternatives").inner("damages"))
    return Measured(tuple(parts), tables, damages, times.lacks)


def times_of(task: Task) -> Times:
    """The times of operators that a task's latency is judged by: of a device's table where it has one, else of this
    machine."""
    table = task.measure.table
    return OperatorTimes() if table is None else TableTimes(table)


def tables_of(task: Task, parts: Sequence[Part], times: Times | None = None) -> tuple[Cost, ...]:
    """What every choice costs in the figures that a task limits.

    Args:
        times: where the latency comes from; by default `times_of` the task.
    """
    plain = draft(task.model, process=task.process)
    variants = list(variants_of(task.graph, parts))
    tables = cost_tables(task.graph, parts, plain, variants)
    if "latency_us" not in task.limits.figures:
        return tables
    times = times_of(task) if times is None else times
    return (*tables, *latency_tables(variants, parts, plain, times, task.measure.reference_us))
