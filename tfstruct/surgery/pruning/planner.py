"""`Planner`: chooses the units of a graph that go so that a budget is met; can be asked again as weights change."""

import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from tfstruct import budgets
from tfstruct.analyze.costs import Costs
from tfstruct.arguments import require_texts
from tfstruct.errors import BudgetError, EmptyPlanError, ModelError, PlanError
from tfstruct.graph import Graph, Group, groups, rebuild, stay_whole
from tfstruct.surgery.pruning.removals import COSTS, excluded, first_that_meets, local_share, ordered, removals_of

# A share of every group, or absolute figures by name.
Limits: TypeAlias = float | Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `plan_channels`, checked.

    Raises:
        BudgetError: a budget that cannot be read, or one of `latency_us` without `latency`.
        PlanError: an option that is out of range.
    """

    budget: Limits | str | None = None
    scope: str = "global"
    round_to: int | Mapping[str, int] | None = None
    min_channels: int | Mapping[str, int] = 1
    max_ratio: float | Mapping[str, float] = 1.0
    exclude: str | Sequence[str] = ()
    latency: Callable | None = None

    def __post_init__(self):
        object.__setattr__(self, "exclude", require_texts("exclude", self.exclude, error=PlanError))
        _check_options(self.scope, self.round_to, self.min_channels, self.max_ratio)
        if self.budget is not None:
            object.__setattr__(self, "budget", _read(self.budget))
        if "latency_us" in self.names and self.latency is None:
            raise BudgetError(
                "A budget of `latency_us` needs `latency=`: a function from a model to its microseconds on the device, "
                "for example tfstruct.convert.measured_latency. Widths decide latency, not a formula."
            )

    @property
    def shared(self) -> bool:
        """Whether the budget is one share for all groups."""
        return isinstance(self.budget, float)

    @property
    def names(self) -> tuple[str, ...]:
        """The figures that the budget limits."""
        return tuple(self.budget) if isinstance(self.budget, Mapping) else ()


def _read(budget) -> Limits:
    if isinstance(budget, Mapping) or (isinstance(budget, str) and "=" in budget):
        return budgets.figures(budget, (*COSTS, "latency_us"))
    try:
        share = budgets.number("a share", budget)
    except BudgetError:
        share = math.nan
    if not 0 < share < 1:
        raise BudgetError(
            f"`budget` must be a share in (0, 1), a dict over {', '.join((*COSTS, 'latency_us'))}, or a text such as "
            f"'macs=50%'. Received: {budget!r}."
        )
    return share


class Planner:
    """Plans for one graph. Costs are counted on the graph, so a plan takes milliseconds, unless a latency is measured.

    Args:
        graph: from `tfstruct.graph.trace`.
        groups: those that may shrink.
        options: the budget, and what narrows the choice.
    """

    def __init__(self, graph: Graph, groups: Sequence[Group], options: Options):
        self.graph, self.groups, self.options = graph, tuple(groups), options
        self.costs = Costs(graph)
        self._counted: dict[tuple[str, ...], Costs] = {}

    @functools.cached_property
    def before(self) -> dict[str, float]:
        """The figures of the whole graph."""
        whole = np.ones(self.graph.units.count, bool)
        figures = self.figures(whole)
        costs = self._costs(self.options.names)
        try:
            figures.update(costs(whole))
        except ModelError as error:
            if costs.hidden:
                raise BudgetError(str(error)) from error
            raise
        if "latency_us" in self.options.names:
            figures["latency_us"] = self._latency(self.graph.model)
        return figures

    @functools.cached_property
    def limits(self) -> Limits:
        """The budget: a share, or absolute figures."""
        budget = self.options.budget
        if isinstance(budget, Mapping):
            return self._absolute(budget)
        assert isinstance(budget, float)  # `_read` left no text, and without a budget nobody asks
        return budget

    def _absolute(self, budget: Mapping[str, float]) -> dict[str, float]:
        return {name: budgets.absolute(name, value, self.before[name]) for name, value in budget.items()}

    def _latency(self, model) -> float:
        measure = self.options.latency
        assert measure is not None  # `Options` refuses a budget of it without
        return float(measure(model))

    def on_the_way(self, progress: float, macs: float = math.inf) -> Limits:
        """The limits after a share `progress` of the way to the budget. A latency, which takes seconds to measure, is
        replaced by a limit on `macs`."""
        if not isinstance(self.limits, Mapping):
            return progress * self.limits
        limits = dict(self.limits)
        if limits.pop("latency_us", None) is not None:
            limits["macs"] = min(limits.get("macs", math.inf), macs)
        return {name: self.before[name] + progress * (limit - self.before[name]) for name, limit in limits.items()}

    def figures(self, keep: np.ndarray) -> dict[str, float]:
        """The costs of what stays, for information: without those that are unknown."""
        return {**self.costs.known(keep)}

    @functools.cached_property
    def whole(self) -> dict[str, str]:
        """Layer -> why none of its channels can go; also for layers inside others."""
        result = stay_whole(self.graph, groups(self.graph))
        for group in self.groups:
            if excluded(group, self.options.exclude):
                result.update(dict.fromkeys(group.makers, "`exclude` names it, or a layer that it is coupled with"))
        return result

    def _and_why(self) -> str:
        """The layers that keep all channels, and why, as a sentence."""
        if not self.whole:
            return ""
        said = "; ".join(f"`{path}`: {why}" for path, why in list(self.whole.items())[:6])
        more = f"; and {len(self.whole) - 6} more" if len(self.whole) > 6 else ""
        return f" Whole stay {said}{more}."

    def require_some(self, keep: np.ndarray) -> None:
        """Refuses a choice that removes nothing; by a threshold that is allowed, with a warning.

        Raises:
            EmptyPlanError: the model meets the budget as it is, or nothing can go.
        """
        if not keep.all():
            return
        of = f"`{self.graph.model.name}`"
        if isinstance(self.options.budget, Mapping):
            limits = self._absolute(self.options.budget)
            said = ", ".join(f"{name} {self.before[name]:,.0f} of {limit:,.0f}" for name, limit in limits.items())
            raise EmptyPlanError(f"The plan removes nothing: {of} meets the budget as it is ({said}).")
        if not any(group.prunable for group in self.groups):
            cause = "none of its channels can go"
        elif self.options.shared:
            cause = "no step is that small, by round_to, min_channels, max_ratio, exclude or the size of the groups"
        else:  # none below a threshold is an answer, where a budget would be missed
            cause = "no channels that can go score below the threshold"
            warnings.warn(f"The plan removes nothing of {of}: {cause}.{self._and_why()}", stacklevel=3)
            return
        raise EmptyPlanError(f"The plan removes nothing of {of}: {cause}.{self._and_why()}")

    def choose(
        self, scores: np.ndarray, limits: Limits | None = None, gone: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The smallest removal that meets the limits: a boolean mask of the units that stay, and the figures then.

        Args:
            scores: importance, by unit.
            limits: to meet; by default the budget's own.
            gone: boolean mask of units that are removed in any case.

        Raises:
            BudgetError: no choice meets the limits; the message says the least that is reachable.
        """
        limits = self.limits if limits is None else limits
        gone = np.zeros(self.graph.units.count, bool) if gone is None else gone
        removals = self._removals(scores, gone)
        if isinstance(limits, Mapping):
            return self._meeting(limits, ordered(removals, self.options.scope), gone)
        keep = _without(gone, local_share(self.groups, removals, limits, gone))
        return keep, self.figures(keep)

    def below(self, scores: np.ndarray, threshold: float) -> tuple[np.ndarray, dict[str, float]]:
        """As `choose`, for the removals whose units score below a threshold."""
        gone = np.zeros(self.graph.units.count, bool)
        low = [one for own in self._removals(scores, gone) for one in own if one.score < threshold]
        keep = _without(gone, low)
        return keep, self.figures(keep)

    def _removals(self, scores: np.ndarray, gone: np.ndarray):
        options = self.options
        return removals_of(
            self.graph, self.groups, scores, options.round_to, options.min_channels, options.max_ratio,
            options.exclude, gone,
        )  # fmt: skip

    def _meeting(self, limits, order, gone) -> tuple[np.ndarray, dict[str, float]]:
        costs = self._costs(tuple(name for name in limits if name in COSTS))
        # All units in the order in which they go, and how many have gone after each removal.
        units = np.fromiter(itertools.chain.from_iterable(one.units for one in order), int)
        ends = np.cumsum([0, *(len(one.units) for one in order)])

        def without(count: int) -> np.ndarray:
            keep = ~gone
            keep[units[: ends[count]]] = False
            return keep

        @functools.cache  # a latency is measured once: the second time it would be another
        def figures(count: int) -> dict[str, float]:
            if count == 0 and not gone.any():
                return self.before
            keep = without(count)
            figure: dict[str, float] = {**costs(keep)}
            if "latency_us" in limits and all(figure[name] <= limits[name] for name in costs.names):
                figure["latency_us"] = self._latency(rebuild(self.graph, keep)[0])
            return figure

        def fits(count: int) -> bool:
            figure = figures(count)
            return all(figure.get(name, float("inf")) <= limit for name, limit in limits.items())

        count = first_that_meets(order, fits)
        if count is None:
            least = figures(len(order))
            missed = [
                f"{name} {limit:,.0f} (least reachable: {least[name]:,.0f} of {self.before[name]:,.0f})"
                for name, limit in limits.items()
                if name in least and least[name] > limit
            ]
            raise BudgetError(
                f"No plan within these limits meets {' and '.join(missed)}. Raise the budget, or relax min_channels, "
                f"max_ratio, round_to or exclude.{self._and_why()}",
                {name: least[name] for name in limits if name in least},
            )
        keep = without(count)
        measured = {name: value for name, value in figures(count).items() if name == "latency_us"}
        return keep, {**self.figures(keep), **measured}

    def _costs(self, names: tuple[str, ...]) -> Costs:
        names = tuple(name for name in names if name in COSTS)
        if names not in self._counted:
            self._counted[names] = self.costs.of(names)
        return self._counted[names]


def _without(gone: np.ndarray, removals) -> np.ndarray:
    keep = ~gone
    for removal in removals:
        keep[list(removal.units)] = False
    return keep


def _check_options(scope, round_to, min_channels, max_ratio) -> None:
    if scope not in ("global", "local"):
        raise PlanError(f'`scope` must be "global" or "local". Received: {scope!r}.')
    for name, value in (("round_to", round_to), ("min_channels", min_channels)):
        values = value.values() if isinstance(value, Mapping) else [1 if value is None else value]
        if any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
            raise PlanError(f"`{name}` must be a whole number above 0, or a dict of them. Received: {value!r}.")
    values = max_ratio.values() if isinstance(max_ratio, Mapping) else [max_ratio]
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 <= v <= 1 for v in values):
        raise PlanError(f"`max_ratio` must be in [0, 1], or a dict of such. Received: {max_ratio!r}.")
