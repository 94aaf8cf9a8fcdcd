"""`compress`: one call and one budget, from a trained model to the file that ships."""

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfstruct.augment import Pipeline
from tfstruct.compression.automatic import Made, automatic, completed
from tfstruct.compression.budget import Budget
from tfstruct.compression.candidate import Candidate
from tfstruct.compression.compressed import Compressed
from tfstruct.compression.compression_report import CompressionReport
from tfstruct.compression.decision import Decision
from tfstruct.compression.execution import StrategyResult, carry_out
from tfstruct.compression.progress import Progress, told_by
from tfstruct.compression.report_extras import report_extras
from tfstruct.compression.search.searching import Search, search_strategies
from tfstruct.compression.steps.step import Step
from tfstruct.compression.task import Settings, Task
from tfstruct.convert.runtime import processor
from tfstruct.convert.usage import versions
from tfstruct.errors import BudgetError, RecipeError
from tfstruct.graph import trace
from tfstruct.samples import Preprocess
from tfstruct.terminal import Verbose, display

BY_NAME = ("auto", "search")
_FELL = 0.05  # share of the quality: a larger loss, where the budget limits none, is warned of
_STRATEGIES = "`strategy` must be 'auto', 'search', or a list of steps. Received: {}."


def compress(
    model: keras.Model,
    train: Any,
    validation: Any,
    budget: Budget | Mapping[str, float] | str,
    *,
    strategy: "str | Sequence[Step | str] | Search" = "auto",
    test: Any = None,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    distillation: float = 0.5,
    temperature: float = 3.0,
    target: str = "mobile",
    calibrator: str = "percentile",
    loss: Any = None,
    metric: "str | Callable | keras.metrics.Metric | None" = None,
    greater_is_better: bool | None = None,
    labels: Any = None,
    preprocess: Preprocess = Preprocess(),  # noqa: B008 (frozen)
    augment: Pipeline | None = None,
    workdir: str | os.PathLike | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    verbose: Verbose = "auto",
    open_layers: str | bool = "auto",
) -> Compressed:
    """Makes a trained model small and fast within a budget, and writes its verified `.tflite` file.

    Analyses the model, decides on a strategy, carries it out step by step and measures the file after each: what is
    redundant goes, channels go while the model trains, the original teaches it, the rounding of the file is trained.
    All choices are made on `validation`; `test` is looked at once, when everything is fixed.

        made = compress(model, train, validation, "accuracy_drop=0.5%,macs=50%,tflite_bytes=50%")
        made.file.save("model.tflite")

    Args:
        model: a trained Sequential or functional model, also nested, of any number of inputs and outputs; not changed.
            Frozen layers (`trainable = False`) do not train and keep their channels, unless a step
            `PruneChannels(frozen=True)` is in `strategy`; steps that take out or replace layers take them as any.
            Where its inputs leave sizes open, the result has those of the training data.
        train: what it is trained on: anything that `tfstruct.samples.open_samples` takes, as (x, y), files or a
            `tf.data.Dataset`, which is streamed, augmentation and all. Without labels the original alone teaches.
        validation: the same, other samples.
        budget: see `Budget`. Without a figure (an `accuracy_drop` alone) channels go as long as the drop allows.
        strategy: `"auto"`: what each alternative of each part of the model costs and loses is measured, and the best
            choice within all limits together is taken (`compression.automatic`). Or the steps in order: names or
            objects of `tfstruct.compression.steps`; what a step leaves open (its epochs, the budget of its channels) is
            filled in. `"search"`, or a `Search`: the best of many that are tried, see `search_strategies`; each trains
            for `epochs`.
        test: what the result is judged on, once, where it meets the budget.
        epochs: of training in all; 0: nothing is trained, which costs accuracy. Where the strategy that is decided on
            has weights of 4 bits and misses the budget, a second one without them is trained for as many.
        batch_size, learning_rate: of training; see `Settings`.
        distillation, temperature: how much of the loss is the original's outputs; see `Settings`.
        target: the device, see `tfstruct.check_target`.
        calibrator: for what is quantized after training.
        loss: as in `compile`; by default the one the model is compiled with, else one that labels and outputs call for.
        metric: what quality is: `"accuracy"`, `"loss"`, a metric of the compiled model or of Keras by name or as
            object, or a function (labels, outputs) -> float. None: accuracy where labels are classes, the loss
            elsewhere.
        greater_is_better: of a function.
        labels, preprocess: of all data, as in `open_samples`.
        augment: of the batches of training, such as `tfstruct.augment.images("light")`; a teacher sees the same.
        workdir: a folder that keeps every stage. Called again with the same arguments, also after the process was
            killed, `compress` goes on from there to the same result. None: a temporary one.
        seed: of everything that is drawn.
        progress: called with a `Progress`.
        verbose: what is shown while it works: 0: nothing; 1: a bar; 2: lines; `"auto"`: nothing where `progress` is
            given, else a bar on a terminal and in a notebook, and elsewhere lines, from the fifth second on.
        open_layers: `"auto"`: custom layers are opened (`tfstruct.surgery.open_layers`) and stay so in the result;
            False: none is.

    Returns:
        `Compressed`: `.model`, `.file` (its `TFLiteModel`) and `.report`.

    It warns of a quality that fell by more than a twentieth where the budget has no `accuracy_drop`.

    Raises:
        BudgetError: the budget cannot be read, or not be met; `.best` is the best that was found.
        ModelError: the model has no graph, such as a subclassed one.
        DataError: data that does not fit.
        RecipeError: a setting that is out of range; a `workdir` of another run.
        ConversionError: an operator without an integer kernel.

    Example:
        >>> made = tfstruct.compress(model, (x, y), (x, y), "macs=60%", epochs=1)
        >>> tfstruct.profile(made.model).macs <= 96
        True
        >>> made.file.save("model.tflite")
    """
    started = time.perf_counter()
    steps = _given(strategy)
    settings = Settings(
        epochs, batch_size, learning_rate, distillation, temperature, target, calibrator, seed
    )  # fmt: skip
    with display(verbose, listens=progress is not None) as show, Task(
        model, train, validation, budget, settings=settings, loss=loss, metric=metric,
        greater_is_better=greater_is_better, labels=labels, preprocess=preprocess, augment=augment, workdir=workdir,
        progress=_both(progress, told_by(show)), strategy="search" if isinstance(steps, Search) else steps,
        open_layers=open_layers,
    ) as task:  # fmt: skip
        tested = None if test is None else task.open_test(test)
        if isinstance(steps, Search):
            made, decisions, tried = _searched(task, steps)
        elif steps == "auto":
            made, decisions, tried = automatic(task)
        else:
            assert not isinstance(steps, str)
            decided, decisions = completed(task, steps)
            made, tried = carry_out(task, decided), ()
        decisions += tuple(Decision(step.kind, False, why) for step, why in made.dropped)
        report = _report(task, made, decisions, started, tested, tried)
    result = Compressed(_compiled(made.model, task), report, made.twin, made.file)
    if not report.met:
        raise BudgetError(
            f"The budget is missed: {'; '.join(report.limits.misses(report.result))}. The best found is "
            f"{report.result}. Raise the budget, or give more epochs, or choose another strategy.",
            {name: getattr(report.result, name) for name in report.limits.figures},
            best=result,
        )
    if doubt := _doubt(task, made.candidate):
        warnings.warn(f"{doubt[0].upper()}{doubt[1:]}.", stacklevel=2)
    return result


def _both(progress, shown) -> Callable[[Progress], None]:
    if progress is not None and not callable(progress):
        return progress  # which the task refuses

    def told(state: Progress) -> None:
        shown(state)
        if progress is not None:
            progress(state)

    return told


def _given(strategy) -> "str | tuple[Step, ...] | Search":
    if strategy == "search":
        return Search()
    if isinstance(strategy, Search):
        return strategy
    if isinstance(strategy, str):
        if strategy not in BY_NAME:
            raise RecipeError(_STRATEGIES.format(repr(strategy)))
        return strategy
    if not isinstance(strategy, Sequence):
        raise RecipeError(_STRATEGIES.format(repr(strategy)))
    steps = tuple(Step.of(step) for step in strategy)
    if not steps:
        raise RecipeError("`strategy` must be 'auto', or a list of at least one step. Received: an empty list.")
    return steps


def _searched(task: Task, search: Search) -> Made:
    """What the best trial made, and the figures of all."""
    found = search_strategies(task, search)
    best = found.best
    if best is None:
        raise BudgetError(f"No trial of the search could be carried out. The last one: {found.trials[-1]}")
    why = f"the best is trial {best.number} of {len(found.trials)}, of which {len(found.measured)} were carried out"
    decisions = (
        Decision("search", True, why),
        *(Decision(step.kind, True, step.reason or f"of trial {best.number}") for step in best.steps),
    )
    return best.made(task), decisions, tuple(trial.candidate for trial in found.measured if trial.candidate is not None)


def _report(task: Task, made: StrategyResult, decisions, started: float, tested, tried=()) -> CompressionReport:
    test = task.folder.read("test.json")
    if test is None and tested is not None and not task.limits.misses(made.candidate):
        task.progress.stage("test")
        test = task.tested(tested, made.model, made.file)
        task.folder.write("test.json", test)
    graph = trace(made.model)
    after = {path: len(labels) for path, labels in graph.makes.items()}
    widths = {path: (len(labels), after.get(path, 0)) for path, labels in task.graph.makes.items()}
    return CompressionReport(
        model=task.model.name,
        budget=task.budget,
        limits=task.limits,
        original=task.original,
        plain=task.plain,
        result=made.candidate,
        decisions=decisions,
        stages=made.stages,
        candidates=(task.plain, *tried, *(stage.candidate for stage in made.stages)),
        widths=widths,
        test=test or {},
        settings=dataclasses.asdict(task.settings),
        processor=processor(),
        versions=versions(),
        seconds=time.perf_counter() - started,
        warnings=(*task.warnings, *filter(None, [_doubt(task, made.candidate)]), *made.file.report.warnings),
        opened=task.graph.opened,
        opaque=task.graph.opaque,
        data={"train": str(task.train), "validation": str(task.validation)} | ({"test": str(tested)} if test else {}),
        **report_extras(task, made),
    )


def _doubt(task: Task, result: Candidate) -> str:
    """What a user should look at: a quality that nothing limited, and that fell; empty where it did not."""
    before, after = task.original.quality, result.quality
    fell = before - after if result.greater_is_better else after - before
    if task.limits.quality is not None or not fell > _FELL * abs(before):
        return ""
    return (
        f"{result.metric} on the validation data is {after:.4g}, of the original {before:.4g}, and the budget limits "
        "no loss of it: give `accuracy_drop` too, or more epochs, or larger figures"
    )


def _compiled(model: keras.Model, task: Task) -> keras.Model:
    """For `evaluate`: with the loss and the metrics that it was trained with."""
    if task.aim.loss is not None:
        model.compile(loss=task.aim.loss, loss_weights=task.aim.weights, metrics=task.aim.metrics)
    return model
