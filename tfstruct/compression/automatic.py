"""`strategy="auto"`: measured alternatives where a limit has to be met, else rules of thumb."""

import dataclasses
import json
from collections.abc import Sequence

from tfstruct.compression.alternatives.choosing import measured_strategy
from tfstruct.compression.alternatives.front_strategies import front_strategies
from tfstruct.compression.alternatives.offered import parts_of
from tfstruct.compression.candidate import Candidate
from tfstruct.compression.decision import Decision
from tfstruct.compression.execution import StrategyResult, carry_out
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.sizing import graph_limits, size_limit
from tfstruct.compression.steps.quantizing import Quantize
from tfstruct.compression.steps.step import Step
from tfstruct.compression.strategy import Decided, decide
from tfstruct.compression.task import Task

Made = tuple[StrategyResult, tuple[Decision, ...], tuple[Candidate, ...]]  # the result, why, what else was carried out

_SHARES = 0.85, 0.7  # of the limits, that a search starts from besides
_TAUGHT, _PART = 100, 10  # steps of training of each alternative at most, and at most a tenth of those of the strategy


def automatic(task: Task) -> Made:
    """Decides on a strategy and carries it out; where that has weights of 4 bits and misses the budget, the same
    without them, of which the better one is taken."""
    decided, decisions, tried = _decided_on(task)
    first = carry_out(task, decided, tried=tried)
    missed = task.limits.misses(first.candidate)
    if not missed or not any(step.uses_four_bits for step in decided):
        return first, decisions, ()
    folder = task.folder.inner("8-bits")
    decided, others, tried = _decided_on(task, folder, four_bits=False)
    second = carry_out(task, decided, folder, tried=tried)
    if task.limits.misses(second.candidate) and not task.limits.prefers(second.candidate, first.candidate):
        why = f"a strategy without weights of 4 bits is no better: {second.candidate}"
        return first, (*decisions, Decision("auto", False, why)), _figures(second)
    why = f"a first strategy, with weights of 4 bits, missed the budget: {'; '.join(missed)}"
    return second, (Decision("auto", True, why), *others), _figures(first)


def automatic_strategy(task: Task, folder: WorkingFolder | None = None, *, four_bits: bool = True) -> Decided:
    """The steps that `"auto"` takes for a task, in order, and why.

    Args:
        folder: where rules of thumb keep what they decided on; by default the task's.
        four_bits: whether weights may have 4 bits.

    Raises:
        BudgetError: no choice of alternatives meets the limits.
    """
    return _decided_on(task, folder, four_bits=four_bits)[:2]


def _decided_on(
    task: Task, folder: WorkingFolder | None = None, *, four_bits: bool = True
) -> tuple[tuple[Step, ...], tuple[Decision, ...], WorkingFolder | None]:
    """The steps, why, and the folder of their short training, from which the long one goes on."""
    why = unmeasured(task)
    if why:
        steps, decisions = completed(task, None, folder, four_bits=four_bits)
        said = f"alternatives are not measured, rules of thumb decide: {why}"
        return steps, (Decision("auto", False, said), *decisions), None
    excluded = () if four_bits else [
        (part.name, number) for part in parts_of(task) if part.kind == Quantize.kind
        for number in range(1, len(part.alternatives))
    ]  # fmt: skip
    chosen = measured_strategy(task, steps=_taught(task), excluded=excluded)
    return chosen.steps, chosen.decisions, chosen.tried


def _taught(task: Task) -> int:
    """Steps of training of each alternative."""
    settings = task.settings
    return min(settings.epochs * task.train.steps(settings.batch_size) // _PART, _TAUGHT)


def start_strategies(task: Task) -> tuple[tuple[Step, ...], ...]:
    """What a search starts from: the strategy of `"auto"`, and where alternatives are measured, the choices of the
    front that need less of all limits."""
    first = automatic_strategy(task)[0]
    if unmeasured(task):
        return (first,)
    others = front_strategies(task, _SHARES, steps=_taught(task))
    return (first, *(one for one in others if one != first))


def unmeasured(task: Task) -> str:
    """Why alternatives need not or cannot be measured; empty where they are."""
    if not task.limits.figures:
        return "the budget limits no figure but the quality"
    if not graph_limits(task) and size_limit(task) >= task.plain.tflite_bytes:
        return "the plain int8 file is within the limits"
    if task.held_out is None:
        return "the training data is too small to hold samples out to judge them by: 192 samples are enough"
    return ""


def completed(
    task: Task, given: Sequence[Step] | None, folder: WorkingFolder | None = None, *, four_bits: bool = True
) -> Decided:
    """The steps of a user with what they leave open filled in, or what rules of thumb decide on; decided once, as
    measured latencies would decide otherwise the second time."""
    folder = folder or task.folder
    found = folder.read("strategy.json", _decided)
    if found is None:
        task.progress.stage("decide")
        steps, decisions = decide(task, given, four_bits=four_bits)
        stored = {
            "steps": [step.to_dict() for step in steps], "decisions": [dataclasses.asdict(one) for one in decisions]
        }  # fmt: skip
        folder.write("strategy.json", stored)
        found = _decided(json.loads(json.dumps(stored)))
    return found


def _decided(stored: dict) -> Decided:
    return tuple(map(Step.from_dict, stored["steps"])), tuple(Decision(**one) for one in stored["decisions"])


def _figures(made: StrategyResult) -> tuple[Candidate, ...]:
    return tuple(stage.candidate for stage in made.stages)
