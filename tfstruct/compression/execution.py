"""`carry_out`: runs a strategy step by step; each finished step is on disk."""

import dataclasses
import json
import time
from collections.abc import Sequence

import keras

from tfstruct.compression.batch_norms import with_fresh_statistics
from tfstruct.compression.candidate import Candidate
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.outcome import Outcome
from tfstruct.compression.stage import Stage
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.steps.step import Step
from tfstruct.compression.task import Task
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.tflite_model import TFLiteModel
from tfstruct.errors import RecipeError
from tfstruct.quantize.scheme import Scheme
from tfstruct.quantize.twin import Twin


@dataclasses.dataclass(frozen=True)
class StrategyResult:
    """The result of a strategy: model, file, figures, and what was done.

    Attributes:
        model: the smaller model.
        twin: of quantization-aware training, or None.
        file: the `.tflite` file.
        candidate: its figures.
        stages: what was done.
        dropped: steps that were undone or skipped, each with the reason.
    """

    model: keras.Model
    twin: Twin | None
    file: TFLiteModel
    candidate: Candidate
    stages: tuple[Stage, ...]
    dropped: tuple[tuple[Step, str], ...] = ()


def carry_out(
    task: Task,
    strategy: Sequence[Step | str],
    folder: WorkingFolder | None = None,
    *,
    seed: int | None = None,
    tried: WorkingFolder | None = None,
) -> StrategyResult:
    """Runs the steps of a strategy in order, measures the file after each, and returns the last result.

    When the same strategy is run again, finished steps are read from the folder, and one that was killed resumes from
    its last epoch. Seeds depend on the place of a step, so the result is the same.

    Args:
        task: what has to be done.
        strategy: the steps; `epochs=None` is a share of those that are left.
        folder: where the stages are kept; by default the task's own.
        seed: of what is drawn; by default that of the settings.
        tried: the folder of the same steps with fewer epochs, carried out before: training goes on from those weights.

    Returns:
        `StrategyResult`: the last model and its file, with their figures, and the stages on the way.

    Raises:
        RecipeError: a step that is not known or does not fit the model.

    Example:
        >>> from tfstruct.compression import Settings, Task, carry_out, steps
        >>> with Task(model, (x, y), (x, y), "macs=60%", settings=Settings(epochs=1), workdir="work") as task:
        ...     made = carry_out(task, [steps.PruneChannels(budget={"macs": 0.6}), steps.Quantize()])
        >>> made.candidate.macs <= 96  # of 160
        True
    """
    folder = folder or task.folder
    seed = task.settings.seed if seed is None else seed
    steps = with_epochs([Step.of(step) for step in strategy], task.settings.epochs)
    task.progress.expect(sum(step.epochs or 0 for step in steps) * task.train.steps(task.settings.batch_size))
    state = _State(Outcome(task.model), task.plain, None)
    stages: list[Stage] = []
    dropped: list[tuple[Step, str]] = []
    out: set[str] = set()
    for number, step in enumerate(steps, 1):
        if step.kind in out:
            dropped.append((step, "the step of its kind before was taken back"))
            continue
        name = f"{number:02}-{step.kind}"
        done = (*(stage.step for stage in stages), step)
        shorter = None if tried is None else tried.inner(name)
        after, stage = _carried_out(task, done, state, folder.inner(name), seed + number, shorter)
        if step.optional and not task.limits.good_enough(stage.candidate):
            dropped.append((step, f"taken back: {task.limits.misses(stage.candidate)[-1]}"))
            out.add(step.kind)
            continue
        state = after
        stages.append(stage)
        task.progress.found(stage.candidate)
    file = state.file
    if file is None:  # the last step was done by an earlier call
        _, file = task.measure("result", *_to_convert(task, state.outcome))
    model, twin = state.outcome.model, state.outcome.twin
    return StrategyResult(model, twin, file, state.candidate.replace(name="result"), tuple(stages), tuple(dropped))


def with_epochs(steps: Sequence[Step], total: int) -> list[Step]:
    """The steps with their epochs as numbers: given ones stay, the rest of `total` is shared out in whole epochs by the
    largest remainder, ties to the later step."""
    open_steps = [i for i, step in enumerate(steps) if step.epochs is None]
    left = max(total - sum(step.epochs or 0 for step in steps), 0)
    shares = {i: steps[i].share for i in open_steps}
    whole = sum(shares.values())
    exact = {i: left * share / whole if whole else 0.0 for i, share in shares.items()}
    counts = {i: int(value) for i, value in exact.items()}
    order = sorted(exact, key=lambda i: (counts[i] - exact[i], -i))
    for i in order[: left - sum(counts.values())] if whole else ():
        counts[i] += 1
    return [step.replace(epochs=counts[i]) if i in counts else step for i, step in enumerate(steps)]


@dataclasses.dataclass(frozen=True)
class _State:
    """The model so far: its figures, and its file unless an earlier call made it."""

    outcome: Outcome
    candidate: Candidate
    file: TFLiteModel | None


def _carried_out(
    task: Task,
    strategy: tuple[Step, ...],
    before: _State,
    folder: WorkingFolder,
    seed: int,
    tried: WorkingFolder | None,
) -> tuple[_State, Stage]:
    """Runs the last step of `strategy` on the result of the steps before; `tried`: the folder of the same step with
    fewer epochs."""
    step = strategy[-1]
    _claim(folder, strategy)
    stored = folder.read("stage.json", _stage_and_scheme)
    if stored is not None:
        task.progress.skip((step.epochs or 0) * task.train.steps(task.settings.batch_size))
        stage, scheme = stored
        return _State(_restored(folder, scheme), stage.candidate, None), stage
    task.progress.stage(step.kind)
    started = time.perf_counter()
    keras.utils.set_random_seed(seed)
    trained = _trained(step, tried) if tried is not None else None
    outcome = step.run(StepContext(task, before.outcome.model, folder, seed, trained))
    if outcome.scheme is None:
        outcome = dataclasses.replace(outcome, scheme=before.outcome.scheme)
    if outcome.model is before.outcome.model and outcome.scheme == before.outcome.scheme:
        candidate, file = before.candidate.replace(name=step.kind, strategy=strategy), before.file
    else:
        if outcome.model is task.model or outcome.model is not before.outcome.model:
            outcome = with_fresh_statistics(task, outcome)
        candidate, file = task.measure(step.kind, *_to_convert(task, outcome), strategy=strategy)
        if _only_rounds(before, outcome) and task.limits.prefers(before.candidate, candidate):
            why = f"training with the rounding is taken back: {candidate.metric} {candidate.quality:.4g}, and "
            why += f"{before.candidate.quality:.4g} quantized after training"
            skipped = [*outcome.skipped, (outcome.model.name, why)]
            outcome = dataclasses.replace(outcome, model=before.outcome.model, twin=None, skipped=skipped)
            candidate, file = before.candidate.replace(name=step.kind, strategy=strategy), before.file
    stage = Stage(
        step, tuple(outcome.changes), tuple(outcome.skipped), candidate, tuple(outcome.history), outcome.details,
        time.perf_counter() - started,
    )  # fmt: skip
    folder.save("model", outcome.model if outcome.twin is None else outcome.twin)
    scheme = None if outcome.scheme is None else outcome.scheme.to_dict()
    folder.write("stage.json", {"stage": stage.to_dict(), "scheme": scheme})  # last: what it says is there
    return _State(outcome, candidate, file), stage


def _only_rounds(before: _State, outcome: Outcome) -> bool:
    """Whether a step trained the rounding of an int8 file: without it there is the one quantized after training."""
    known, scheme = before.outcome, outcome.scheme
    plain = scheme is not None and scheme.precision == "int8" and not scheme.layers
    return plain and outcome.twin is not None and known.twin is None and known.scheme is None


def _trained(step: Step, tried: WorkingFolder) -> keras.Model | None:
    """What the same step made in a shorter training; None where it did not train then."""
    stored = tried.read("stage.json", _stage_and_scheme)
    shorter = None if stored is None else stored[0].step
    if shorter is None or not shorter.epochs or shorter.replace(epochs=step.epochs) != step:
        return None
    loaded = tried.load("model")
    return loaded.model if isinstance(loaded, Twin) else loaded


def _claim(folder: WorkingFolder, strategy: tuple[Step, ...]) -> None:
    """Makes sure that a folder is used by one strategy only."""
    wanted = json.loads(json.dumps([step.to_dict() for step in strategy]))
    found = folder.read("strategy.json", kind=list)
    if found is None:
        folder.write("strategy.json", wanted)
    elif found != wanted:
        raise RecipeError(f"The folder {folder.path} holds the work of another strategy. Give this one its own.")


def _stage_and_scheme(stored: dict) -> tuple[Stage, Scheme | None]:
    scheme = None if stored["scheme"] is None else Scheme.from_dict(stored["scheme"])
    return Stage.from_dict(stored["stage"]), scheme


def _restored(folder: WorkingFolder, scheme: Scheme | None) -> Outcome:
    loaded = folder.load("model")
    twin = loaded if isinstance(loaded, Twin) else None
    return Outcome(loaded if twin is None else twin.model, twin=twin, scheme=scheme)


def _to_convert(task: Task, outcome: Outcome) -> tuple[keras.Model | Twin, Recipe]:
    """The model to convert, and the recipe for it."""
    if outcome.twin is not None:
        return outcome.twin, task.recipe
    scheme = outcome.scheme or Scheme("int8")
    return outcome.model, task.recipe.replace(precision=scheme.precision, layers=scheme.layers)
