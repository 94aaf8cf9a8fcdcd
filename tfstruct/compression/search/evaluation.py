"""Evaluates one trial: the figures of its strategy, or the reason why it was not run."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import keras

from tfstruct.analyze import Costs
from tfstruct.compression.candidate import Candidate
from tfstruct.compression.execution import carry_out
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.search.trial import Trial
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.steps.step import Step
from tfstruct.compression.task import Task
from tfstruct.convert.draft import draft
from tfstruct.convert.recipe import Recipe
from tfstruct.errors import BudgetError, TfstructError
from tfstruct.graph import trace
from tfstruct.quantize.scheme import Scheme

_DOUBT = 0.03  # tolerance: the channels chosen before training differ a little from those chosen during it

# (task, strategy, folder of the trial, seed) -> figures. An error of tfstruct's own says why there are none.
Evaluate = Callable[[Task, Sequence[Step], WorkingFolder, int], Candidate]


def evaluate(task: Task, steps: Sequence[Step], folder: WorkingFolder, seed: int) -> Candidate:
    """Trains, converts and measures, unless the graph shows beforehand that the budget will be missed.

    Raises:
        BudgetError: the budget will be missed; nothing was trained.
    """
    if misses := foreseen(task, steps, folder.inner("untrained"), seed):
        raise BudgetError(f"not trained: {'; '.join(misses)}")
    return carry_out(task, steps, folder, seed=seed).candidate


def foreseen(task: Task, steps: Sequence[Step], folder: WorkingFolder, seed: int) -> tuple[str, ...]:
    """The limits that a strategy misses whatever training does. Its steps are run without epochs, the costs of the
    graph counted, the file written with random ranges. Within 3 % of a limit it counts as met: only training tells."""
    limits = task.limits.figures
    known = [name for name in ("macs", "params", "peak_memory", "tflite_bytes") if name in limits]
    if not known:
        return ()
    model, scheme = task.model, Scheme("int8")
    for number, step in enumerate(steps, 1):
        keras.utils.set_random_seed(seed + number)
        place = folder.inner(f"{number:02}-{step.kind}")
        outcome = step.replace(epochs=0).run(StepContext(task, model, place, seed + number))
        model, scheme = outcome.model, outcome.scheme or scheme
    names = [name for name in known if name != "tflite_bytes"]
    figures = dict(Costs(trace(model), names)()) if names else {}
    if "tflite_bytes" in known:
        recipe = Recipe(precision=scheme.precision, layers=scheme.layers)
        figures["tflite_bytes"] = len(draft(model, recipe=recipe, process=task.process)[0])
    return tuple(
        f"{name} {figures[name]:,.0f} (at most {limits[name]:,.0f})"
        for name in known
        if figures[name] > (1 + _DOUBT) * limits[name]
    )


def attempted(evaluate: Evaluate, task: Task, trial: Trial) -> Trial:
    """Runs a trial; returns it with its figures, or with the reason why there are none."""
    try:
        candidate = evaluate(task, trial.steps, task.folder.inner(trial.folder), trial.seed)
    except TfstructError as error:
        return dataclasses.replace(trial, reason=str(error))
    if not math.isfinite(candidate.quality):
        return dataclasses.replace(trial, reason=f"{candidate.metric} is {candidate.quality}: training diverged")
    return dataclasses.replace(trial, candidate=candidate.replace(name=f"trial {trial.number}"))
