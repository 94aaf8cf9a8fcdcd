"""A strategy chosen from alternatives that were measured: the choice of least damage, drafted, tried, with reasons."""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from tfstruct.compression.alternatives.alternative import At, Part
from tfstruct.compression.alternatives.cost_table import Cost
from tfstruct.compression.alternatives.damage import Damages
from tfstruct.compression.alternatives.measured import measured
from tfstruct.compression.alternatives.offered import conflicts_of, edited, steps_of
from tfstruct.compression.alternatives.rivals import rivals
from tfstruct.compression.alternatives.solver import Choice, choose, more_in_words
from tfstruct.compression.decision import Decision
from tfstruct.compression.execution import StrategyResult, carry_out
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.sizing import graph_limits, size_limit
from tfstruct.compression.steps.from_scratch import FromScratch
from tfstruct.compression.steps.optimizing import Optimize
from tfstruct.compression.steps.quantizing import Quantize
from tfstruct.compression.steps.step import Step
from tfstruct.compression.task import Task
from tfstruct.convert.draft import draft
from tfstruct.convert.recipe import Recipe
from tfstruct.errors import BudgetError
from tfstruct.reporting.tables import by_reason

_ROUNDING, _COARSE = 0.05, 0.15  # of all epochs: for the rounding of the file, one at least; with weights of 4 bits
_DRAFTS = 4  # choices whose file is drafted until one is within the limits
_CHOICES = "choices.json"
_LOST = 0.5  # of what a network loses that knows nothing: from there on one from scratch is tried too
_MARGIN = 0.98  # of a limit that is planned for where a draft has exceeded it


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A strategy, and why.

    Attributes:
        choice: the alternatives, by part, with their predicted damage and figures.
        steps: the same as a strategy.
        decisions: the reasons, in words and figures.
        tried: the folder of its short training, within the task's; None where it had none.
    """

    choice: Choice
    steps: tuple[Step, ...]
    decisions: tuple[Decision, ...]
    tried: WorkingFolder | None = None

    def to_dict(self) -> dict:
        """Plain data for JSON, without the folder of the training."""
        return {
            "choice": dataclasses.asdict(self.choice),
            "steps": [step.to_dict() for step in self.steps],
            "decisions": [dataclasses.asdict(one) for one in self.decisions],
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> "Chosen":
        choice = Choice(**{**data["choice"], "runners_up": [Choice(**one) for one in data["choice"]["runners_up"]]})
        steps = tuple(Step.from_dict(step) for step in data["steps"])
        return cls(choice, steps, tuple(Decision(**one) for one in data["decisions"]))


def planned_limits(task: Task) -> dict[str, float]:
    """The limits of a task in figures of cost tables, also those that the original meets, as an alternative may exceed
    them: gzip and arena by what the plain file says of them."""
    figures = task.limits.figures
    found = {name: figures[name] for name in ("macs", "params", "peak_memory", "latency_us") if name in figures}
    found |= graph_limits(task)
    if {"tflite_bytes", "gzip_bytes"} & task.limits.figures.keys():
        found["tflite_bytes"] = size_limit(task)
    return found


def choose_strategies(
    task: Task,
    parts: Sequence[Part],
    tables: Iterable[Cost],
    damages: Damages,
    *,
    fixed: Mapping[str, int] | None = None,
    excluded: Collection[At] = (),
    count: int = 3,
    epochs: int | None = None,
    short: int = 0,
    lacking: Collection[str] = (),
) -> tuple[Chosen, ...]:
    """The choice of least damage within the limits of a task, and `rivals` of other kinds, as strategies. Where the
    first loses half or more of what there is to lose, its network without the weights of the original is the last.

    The file of each is drafted; where it exceeds a limit, that limit is lowered by as much, and chosen again.

    Args:
        task: what has to be done.
        parts, tables, damages: what may be, what that costs, what it loses.
        fixed: part -> the alternative that is given.
        excluded: alternatives that may not be picked.
        count: at most so many, and the one from scratch.
        epochs: of training in all; by default those of the settings.
        short: how many of them each choice is tried for where there are several.
        lacking: operators that the device's table lacks, see `Times.lacks`.

    Raises:
        BudgetError: no choice meets the limits.
    """
    tables, limits = tuple(tables), planned_limits(task)
    known = {name for table in tables for name in table.figures} | {"peak_memory"}
    unknown = tuple(name for name in limits if name not in known)
    limits = {name: value for name, value in limits.items() if name in known}
    out = {*excluded, *damages.failed}
    asked = functools.partial(
        choose, parts, tables, damages.parts, pairs=damages.pairs, conflicts=conflicts_of(parts)
    )  # fmt: skip
    first = _within_limits(task, parts, functools.partial(asked, fixed=fixed, excluded=out), limits)
    found = [first]
    if count > 1:
        briefly = functools.partial(asked, runners_up=0, prices=False)
        for rival in rivals(
            first.choice, parts, damages.parts, functools.partial(briefly, first.limits), fixed=fixed, excluded=out
        ):
            if len(found) == count:
                break
            again = functools.partial(briefly, fixed=rival.fixed, excluded=rival.excluded)
            with contextlib.suppress(BudgetError):  # its file is larger than predicted, and nothing like it is smaller
                found.append(_within_limits(task, parts, again, first.limits))
    lost = first.choice.damage / damages.nothing
    scratch = count > 1 and lost >= _LOST
    tried = len(found) + scratch
    epochs = task.settings.epochs if epochs is None else epochs
    epochs -= short * tried if tried > 1 else 0
    made = []
    for one in found:
        chosen = _chosen(epochs, parts, damages, one.choice, one.limits)
        notes = tuple(Decision("auto", False, note) for note in _notes(parts, damages, lacking, unknown, one.exceeds))
        made.append(dataclasses.replace(chosen, decisions=(*chosen.decisions, *notes)))
    if scratch:
        made.append(_from_scratch(made[0], lost))
    return tuple(made)


def _from_scratch(chosen: Chosen, lost: float) -> Chosen:
    """The network of a choice, trained without the weights of the original."""
    why = f"the choice loses {lost:.0%} of what a network loses that knows nothing: its weights may be worth little"
    *edits, rounding = chosen.steps
    epochs = sum(step.epochs or 0 for step in edits)
    steps = (*(step.replace(epochs=0) for step in edits), FromScratch(epochs=epochs, reason=why), rounding)
    return dataclasses.replace(
        chosen, steps=steps, decisions=(*chosen.decisions, Decision(FromScratch.kind, True, why))
    )


@dataclasses.dataclass(frozen=True)
class _Drafted:
    """A choice whose file was drafted.

    Attributes:
        choice: the last one.
        limits: it was chosen within.
        exceeds: figure of the file -> by what factor its draft is beyond the limit of the task, where it is.
    """

    choice: Choice
    limits: Mapping[str, float]
    exceeds: Mapping[str, float]


def _within_limits(
    task: Task, parts: Sequence[Part], asked: Callable[[Mapping[str, float]], Choice], limits: Mapping[str, float]
) -> _Drafted:
    """What is chosen within limits that are lowered until its draft is within those of the task."""
    for _ in range(_DRAFTS):
        within = limits
        found = asked(within)
        exceeds = {name: factor for name, factor in _drafted(task, parts, found).items() if factor > 1}
        if not exceeds:
            break
        limits = {name: limits[name] * min(_MARGIN / exceeds.get(name, _MARGIN), 1.0) for name in limits}
    return _Drafted(found, within, exceeds)


def _notes(parts: Sequence[Part], damages: Damages, lacking, unknown, factors: Mapping[str, float]) -> list[str]:
    """What was left out or may not hold."""
    names = {part.name: part for part in parts}
    failed = {f"{name}: {names[name].alternatives[i].name}": why for (name, i), why in damages.failed.items()}
    found = by_reason("could not be made", failed)
    if lacking:
        found.append(f"the latency table lacks {', '.join(lacking)}: forms that need it are not taken")
    if factors:
        said = ", ".join(f"{name} by {factor - 1:.1%}" for name, factor in factors.items())
        found.append(f"the file of an untrained draft exceeds its limits: {said}")
    if unknown:
        found.append(f"{', '.join(unknown)} cannot be predicted: what is chosen may miss it")
    return found


def measured_strategy(
    task: Task,
    *,
    steps: int = 100,
    tried: int = 3,
    fixed: Mapping[str, int] | None = None,
    excluded: Collection[At] = (),
) -> Chosen:
    """A strategy from measurements: what each alternative of each part costs and loses, chosen within all limits
    together by an integer program, the best few trained for an epoch. What has been measured is in the working folder.

    Args:
        task: what has to be done.
        steps: of training of each alternative; 0: none.
        tried: choices that are trained for an epoch, of which the best is taken; 1: none is, as where that would take
            more than a quarter of the epochs.
        fixed: part -> the alternative that is given.
        excluded: alternatives that may not be picked.

    Raises:
        BudgetError: no choice meets the limits, or the budget limits no figure.
        ModelError: too few samples to hold some out.
    """
    if not task.limits.figures:
        raise BudgetError(
            "Measured alternatives are chosen within limits, and the budget has none but the quality. Give a figure "
            "too, such as macs=50% or tflite_bytes=50%, or take strategy='auto'."
        )
    epochs = task.settings.epochs
    tried = tried if 4 * tried <= epochs else 1
    folder = task.folder.inner("alternatives")
    place = folder.inner(_named(steps, tried, fixed, excluded))
    chosen = place.read(_CHOICES, _stored, list)
    if chosen is None:  # measured latencies would choose otherwise the second time
        known = measured(task, steps=steps)
        task.progress.stage("choose")
        found = choose_strategies(
            task, known.parts, known.tables, known.damages, fixed=fixed, excluded=excluded, count=tried,
            lacking=known.lacking, short=1,
        )  # fmt: skip
        place.write(_CHOICES, [one.to_dict() for one in found])
        chosen = place.read(_CHOICES, _stored, list)
    return best_of(task, chosen, folder=place)[0]


def _stored(data: list) -> list[Chosen]:
    return [Chosen.from_dict(one) for one in data]


def _named(steps: int, tried: int, fixed: Mapping[str, int] | None, excluded: Collection[At]) -> str:
    """The folder of a choice, by what it was made with."""
    about = json.dumps([steps, tried, sorted((fixed or {}).items()), sorted(excluded)])
    return f"choice-{hashlib.sha256(about.encode()).hexdigest()[:12]}"


def strategy_of(
    parts: Sequence[Part], choice: Choice, epochs: int, reasons: Mapping[str, str] | None = None
) -> tuple[Step, ...]:
    """A choice as a strategy: all edits at once, trained together after the last of them, the rounding last.

    Args:
        epochs: in all.
        reasons: kind of a step -> why.
    """
    made = steps_of(choice.changes(parts))
    edits: list[Step] = [step for step in made if not isinstance(step, Quantize)]
    (rounding,) = [step for step in made if isinstance(step, Quantize)] or [Quantize(precision="int8")]
    share = _COARSE if rounding.uses_four_bits else _ROUNDING
    quantized = min(max(1, round(share * epochs)), epochs) if edits else epochs
    steps = [Optimize(), *edits, rounding]
    counts = [0] * (len(steps) - 2) + [epochs - quantized, quantized]
    reasons = reasons or {}
    return tuple(
        step.replace(epochs=count, reason=reasons.get(step.kind, "")) for step, count in zip(steps, counts, strict=True)
    )


def best_of(
    task: Task, chosen: Sequence[Chosen], epochs: int = 1, folder: WorkingFolder | None = None
) -> tuple[Chosen, tuple[StrategyResult, ...]]:
    """The choice that leaves most after a short training, and what was made of each; resumable.

    Args:
        epochs: of training of each.
        folder: of what is made; by default the task's.
    """
    folder = folder or task.folder
    if len(chosen) == 1:
        return chosen[0], ()
    tried = []
    for number, one in enumerate(chosen):
        task.progress.stage(f"try choice {number + 1} of {len(chosen)}")
        short = _with_total(one.steps, epochs)
        tried.append(carry_out(task, short, folder.inner(f"tried-{number}")))

    place = 0
    for number, made in enumerate(tried):
        if task.limits.prefers(made.candidate, tried[place].candidate):
            place = number
    said = "; ".join(
        f"{number + 1}, {_kinds(own)}: {one.candidate}"
        for number, (own, one) in enumerate(zip(chosen, tried, strict=True))
    )
    why = f"choice {place + 1} is best after {epochs} epoch{'s' if epochs > 1 else ''} ({said})"
    best = chosen[place]
    decisions = (Decision("auto", True, why), *best.decisions)
    return dataclasses.replace(best, decisions=decisions, tried=folder.inner(f"tried-{place}")), tuple(tried)


def _kinds(chosen: Chosen) -> str:
    """What a choice does, by kind."""
    does = [step.kind for step in chosen.steps if not isinstance(step, Optimize)]
    return " and ".join(does)


def _with_total(steps: Sequence[Step], epochs: int) -> list[Step]:
    """The same steps with all epochs in the last edit that trains, none for the rounding."""
    trains = max((i for i, step in enumerate(steps[:-1]) if step.epochs), default=len(steps) - 1)
    return [step.replace(epochs=epochs if i == trains else 0) for i, step in enumerate(steps)]


def _drafted(task: Task, parts: Sequence[Part], choice: Choice) -> dict[str, float]:
    """Figure of the file -> by what factor a choice exceeds its limit, measured on an untrained draft."""
    limits = planned_limits(task)
    if not {"tflite_bytes", "latency_us"} & limits.keys():
        return {}
    model, layers = edited(task.model, choice.changes(parts))
    content, named = draft(model, recipe=Recipe(precision="int8", layers=layers), process=task.process)
    found = {"tflite_bytes": len(content) / limits["tflite_bytes"]} if "tflite_bytes" in limits else {}
    if "latency_us" in limits:
        found["latency_us"] = task.measure.latency(content, named) / task.limits.figures["latency_us"]
    return found


def _chosen(
    epochs: int, parts: Sequence[Part], damages: Damages, choice: Choice, limits: Mapping[str, float]
) -> Chosen:
    reasons: dict[str, list[str]] = {}
    for part, one in choice.changes(parts).items():
        loss = damages.parts[part.name][choice.picked[part.name]]
        reasons.setdefault(part.kind, []).append(f"{part.name}: {one.name} (loses {loss:.3g})")
    said = {kind: "; ".join(own) for kind, own in reasons.items()}
    steps = strategy_of(parts, choice, epochs, said)
    decisions = list(dict.fromkeys(Decision(step.kind, True, step.reason or "always") for step in steps))
    kinds = dict.fromkeys(part.kind for part in parts)
    decisions += [
        Decision(kind, False, "all that it offers loses more for what it saves") for kind in kinds if kind not in said
    ]
    return Chosen(choice, steps, (Decision("auto", True, _summary(damages, choice, limits)), *decisions))


def _summary(damages: Damages, choice: Choice, limits: Mapping[str, float]) -> str:
    figures = ", ".join(f"{name} {choice.figures[name]:,.0f} of {limit:,.0f}" for name, limit in limits.items())
    prices = "; ".join(
        f"{more_in_words(name)} of {name} would save {f'{price:.3g}' if price > 0 else 'nothing'}"
        for name, price in choice.prices.items()
    )
    others = ", ".join(f"{one.damage:.3g}" for one in choice.runners_up)
    parts = [
        f"of the choices within the budget ({figures}) the one of least predicted loss, {choice.damage:.3g}, measured "
        f"on {damages.samples} held-out samples after {damages.steps} steps of training of each alternative",
        f"the next ones lose {others}" if others else "",
        prices,
    ]
    return "; ".join(part for part in parts if part)
