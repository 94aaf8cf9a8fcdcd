"""`search_strategies`: which strategy and how much of it, tried out."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tfstruct.arguments import require_count
from tfstruct.compression.alternatives.front_strategies import strategies_of
from tfstruct.compression.automatic import start_strategies
from tfstruct.compression.budget import FIGURES
from tfstruct.compression.search.evaluation import Evaluate, evaluate
from tfstruct.compression.search.proposals import first_points, next_points
from tfstruct.compression.search.record import Record
from tfstruct.compression.search.search_report import SearchReport
from tfstruct.compression.search.space import Space
from tfstruct.compression.search.trial import Trial
from tfstruct.compression.search.workers import workers
from tfstruct.compression.steps.step import Step
from tfstruct.compression.task import Task
from tfstruct.errors import RecipeError

_START = "start.json"
_SEEDS = 100  # distance of the seeds of two trials: each step of a trial adds its number to the seed


@dataclasses.dataclass(frozen=True)
class Search:
    """How a search is done.

    Attributes:
        trials: how many strategies, with those of earlier calls in the same storage.
        objectives: `"quality"`, of which the task says whether more is better, and fields of `Candidate` of which less
            is. By default quality, `tflite_bytes` and, where the budget limits it, `latency_us`, else `macs`. Latency
            measured on this machine differs from run to run, and with other work on it; by a table it does not.
        space: what to choose from: a `Space`, or an object with `distributions` (name -> Optuna distribution) and
            `steps(point)`. By default what the model has.
        storage: URL of a database, as SQLAlchemy writes them; by default an SQLite file in the working folder.
        start: whether the first trials are what `strategy="auto"` does, and where it measures alternatives, the choices
            of least predicted damage within 85 and 70 % of the limits.
        generation: how many strategies are proposed at a time. Each generation depends on the results of those before,
            so workers beyond that number have nothing to do.
        workers: how many Ray workers carry out trials; 0: this process, one after the other.
        address: of a running Ray cluster, as in `ray.init`; None: workers on this machine. Of a cluster all machines
            must see the working folder under the same path.
        gpus: for each Ray worker; also a share, such as 0.5.

    Raises:
        RecipeError: a setting out of range.

    Example:
        >>> tfstruct.compression.Search(trials=4, objectives=("quality", "macs")).generation
        8
    """

    trials: int = 20
    objectives: tuple[str, ...] | None = None
    space: Any = None
    storage: str | None = None
    start: bool = True
    generation: int = 8
    workers: int = 0
    address: str | None = None
    gpus: float = 0

    def __post_init__(self):
        for name, least in (("trials", 1), ("generation", 1), ("workers", 0)):
            object.__setattr__(self, name, require_count(name, getattr(self, name), least, error=RecipeError))
        if self.address is not None and not self.workers:
            raise RecipeError("`address` is of a Ray cluster: say how many workers. Received: workers=0.")
        if self.objectives is not None:
            object.__setattr__(self, "objectives", tuple(self.objectives))
            if "quality" not in self.objectives or not {*self.objectives} - {"quality"} <= {*FIGURES}:
                raise RecipeError(
                    f"`objectives` must be 'quality' and some of {', '.join(FIGURES)}. Received: {self.objectives}."
                )
            if len({*self.objectives}) < max(len(self.objectives), 2):
                raise RecipeError(f"`objectives` must be two or more different ones. Received: {self.objectives}.")


def search_strategies(task: Task, search: Search = Search(), *, evaluate: Evaluate = evaluate) -> SearchReport:
    """Tries strategies, and keeps the figures of each.

    The first trials are what `strategy="auto"` does and smaller choices of its front, then a Latin hypercube over the
    space, then, generation by generation, what a tree-structured Parzen estimator proposes (`proposals`). A strategy
    whose graph shows that it misses the budget is not trained (`evaluation.foreseen`). Every generation is a function
    of the seed and of the results of those before, and a trial's seed of its number: so a search that was killed and
    is called again, one with more trials added to it, and one with any number of workers all try the same.

        with Task(model, train, validation, "accuracy_drop=1%", workdir="work") as task:
            found = search_strategies(task, Search(trials=40))
            made = found.best.made(task)

    Args:
        task: the model, data and budget. Its working folder keeps the trials, each in a folder of its own.
        search: how.
        evaluate: what carries out one trial.

    Returns:
        `SearchReport`: all trials, and the front of those that no other beats.

    Raises:
        RecipeError: an objective that this task has no figure for; Optuna or Ray is not installed.

    Example:
        >>> from tfstruct.compression import Search, Settings, Task, search_strategies
        >>> with Task(model, (x, y), (x, y), "macs=60%", settings=Settings(epochs=1), workdir="work") as task:
        ...     found = search_strategies(task, Search(trials=2))
        >>> len(found.trials)
        2
    """
    objectives = search.objectives or _objectives(task)
    unknown = [name for name in objectives if getattr(task.plain, name) is None]
    if unknown:
        raise RecipeError(f"`objectives` names {', '.join(unknown)}, which is unknown for this model and budget.")
    space = search.space or Space.of(task)
    name = _name(task, search, objectives, space)
    storage = search.storage or f"sqlite:///{task.folder.path / 'search.db'}"
    record = Record(storage, name, objectives, task.plain.greater_is_better)
    plan = _Plan(task, search, space, record)
    with workers(task, evaluate, search.workers, search.address, search.gpus) as carried_out:
        while trials := plan.trials():
            for trial in carried_out(trials):
                record.finish(trial)
    return SearchReport(name, storage, objectives, task.limits, task.original, task.plain, record.trials())


def _objectives(task: Task) -> tuple[str, ...]:
    cost = "params" if task.plain.macs is None else "macs"
    return ("quality", "tflite_bytes", "latency_us" if "latency_us" in task.limits.figures else cost)


def _name(task: Task, search: Search, objectives: Sequence[str], space) -> str:
    """The study's name: equal for a search and its resumption (same task, same proposals)."""
    described = [
        task.folder.read("manifest.json"), objectives, search.generation, search.start,
        {name: repr(one) for name, one in sorted(space.distributions.items())},
        repr(space) if isinstance(space, Space) else "",
    ]  # fmt: skip
    return f"search-{hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]}"


class _Plan:
    """Decides which trials come next, from the recorded ones."""

    def __init__(self, task: Task, search: Search, space, record: Record):
        self.task, self.search, self.space, self.record = task, search, space, record

    def trials(self) -> tuple[Trial, ...]:
        """The open trials, of an earlier call or new; empty when the search is finished."""
        if not self.record.waiting():
            self._propose()
        return self.record.waiting()

    def _propose(self) -> None:
        """Records the unfinished trials of the last generation, or proposes a new generation."""
        trials = self.record.trials()
        free, seed = self.search.trials - len(trials), self.task.settings.seed
        last = trials[-1].generation if trials else 0
        for generation in (last, last + 1) if free > 0 else ():
            there = sum(trial.generation == generation for trial in trials)
            missing = itertools.islice(self._generation(generation), there, there + free)
            for number, (point, steps) in enumerate(missing, len(trials)):
                place = f"{self.record.name}/trial-{number:04}"
                trial = Trial(number, steps, generation, seed + _SEEDS * (number + 1), place)
                self.record.add(trial, point, self.space.distributions)
            if self.record.waiting():
                break

    def _generation(self, generation: int) -> Iterator[tuple[dict, tuple[Step, ...]]]:
        """(point, strategy) of a generation, without strategies that earlier generations tried."""
        search, space = self.search, self.space
        if generation == 0:
            for steps in self._start() if search.start else ():
                yield {}, steps
            return
        trials = self.record.trials()
        past = [one for one, trial in zip(self.record.stored(), trials, strict=True) if trial.generation < generation]
        known = {_written(trial.steps) for trial in trials if trial.generation < generation}
        seeds = np.random.SeedSequence([self.task.settings.seed, generation])
        seed = int(seeds.generate_state(1)[0])
        if generation == 1:
            points: Iterable[dict] = first_points(space.distributions, seed, search.generation)
        else:
            tried = [trial for trial in past if trial.params]
            points = next_points(space.distributions, seed, search.generation, tried, self.record.directions)
        found = 0
        for point in points:
            steps = tuple(space.steps(point))
            if _written(steps) not in known:
                known.add(_written(steps))
                yield point, steps
                found += 1
            if found == search.generation:
                return

    def _start(self) -> Sequence[tuple[Step, ...]]:
        """The strategies of the first generation, decided on once."""
        folder = self.task.folder.inner(self.record.name)
        found = folder.read(_START, strategies_of, list)
        if found is None:
            found = [*start_strategies(self.task)]
            folder.write(_START, [[step.to_dict() for step in steps] for steps in found])
        return found


def _written(steps: Sequence[Step]) -> str:
    return json.dumps([step.to_dict() for step in steps])
