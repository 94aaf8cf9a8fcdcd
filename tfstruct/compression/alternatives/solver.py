"""`choose`: one alternative of every part, of least damage within all limits together."""

import dataclasses
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from tfstruct.compression.alternatives.alternative import Alternative, At, Conflict, Part
from tfstruct.compression.alternatives.cost_table import MEMORY, PEAK, Cost, CostTable, totals
from tfstruct.compression.alternatives.program import DAMAGE, Program, Solved
from tfstruct.errors import ArgumentError, BudgetError

_MORE = 0.05  # of a limit: how much larger it is made to find its price
_EXCEEDED = 1e-9  # share of a limit within which a sum of floats meets it
_REPAIRS = 20  # choices that the solver's tolerance let through and that are refused
_SECONDS = 60.0  # for the best choice
_BESIDE = 10.0  # and for each runner-up and price
_SUMMED = "damage of pairs"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One alternative of every part.

    Attributes:
        picked: part -> number of its alternative.
        damage: predicted: the sum of the parts' own, and what tried pairs lose beyond it.
        figures: what it costs, by name.
        prices: limit -> damage that one unit more of it would save: 1,000 bytes of a limit in bytes, else 1 % of the
            limit. Found with a limit that is 5 % larger; one for which time ran out is left out.
        runners_up: the next best choices within the limits.
        gap: how much less damage a choice may have at most that the solver had no time to find; 0: this is the best.

    Example:
        >>> from tfstruct.compression.alternatives.solver import Choice
        >>> Choice({"width": 1}, 0.02, {"macs": 57.0}).picked
        {'width': 1}
    """

    picked: Mapping[str, int]
    damage: float
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    prices: Mapping[str, float] = dataclasses.field(default_factory=dict)
    runners_up: tuple["Choice", ...] = ()
    gap: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "runners_up", tuple(self.runners_up))

    def changes(self, parts: Sequence[Part]) -> dict[Part, Alternative]:
        """What is picked of the parts that do not stay as they are."""
        return {part: part.alternatives[place] for part in parts if (place := self.picked[part.name])}


def unit_of(limit: str, value: float) -> float:
    """What a price is for: 1,000 of a limit in bytes, else 1 % of it."""
    return 1000.0 if _in_bytes(limit) else value / 100


def more_in_words(limit: str) -> str:
    """The unit of a price in words: "1 kB more" of a limit in bytes, else "1 % more"."""
    return "1 kB more" if _in_bytes(limit) else "1 % more"


def _in_bytes(limit: str) -> bool:
    return limit.endswith("_bytes") or limit == PEAK


def choose(
    parts: Sequence[Part],
    tables: Iterable[Cost],
    damages: Mapping[str, np.ndarray],
    limits: Mapping[str, float],
    *,
    pairs: Mapping[tuple[At, At], float] | None = None,
    conflicts: Iterable[Conflict] = (),
    fixed: Mapping[str, int] | None = None,
    excluded: Collection[At] = (),
    runners_up: int = 3,
    prices: bool = True,
    seconds: float = _SECONDS,
) -> Choice:
    """The choice of least damage, exactly, by an integer program:

        minimise   sum over parts of damage[part, i] + sum over tried pairs of theirs, where both are picked
        such that  each figure, summed over the tables, is at most its limit; the memory of every moment likewise

    Args:
        parts: what is decided on its own.
        tables: what pieces of the file cost.
        damages: part -> damage by alternative.
        limits: figure of the tables, or `"peak_memory"` -> the most it may be.
        pairs: what two alternatives of different parts lose together beyond the sum of each alone.
        conflicts: alternatives of two parts that cannot go together.
        fixed: part -> the alternative that is given.
        excluded: alternatives that may not be picked.
        runners_up: how many other choices are looked for.
        prices: whether the price of each limit is looked for.
        seconds: after which the solver takes the best that it has; `Choice.gap` says what that may lose.

    Raises:
        BudgetError: no choice meets the limits; `least` has what each can be alone, the message what is reachable
            together.
        ArgumentError: a part, alternative or figure that is not there, or what is fixed, excluded and in conflict
            leaves nothing.
    """
    apart = [(one.one, one.other) for one in conflicts]
    problem = _Problem(parts, tuple(tables), damages, pairs or {}, apart, fixed or {}, excluded, limits, seconds)
    best = problem.best(limits)
    if best is None:
        raise problem.out_of_reach(limits)
    others: list[Choice] = []
    while len(others) < runners_up:
        other = problem.another(limits, [one.picked for one in (best, *others)])
        if other is None:
            break
        others.append(other)
    costs = {name: problem.price(name, best, limits) for name in limits} if prices else {}
    known = {name: price for name, price in costs.items() if price is not None}
    return dataclasses.replace(best, runners_up=tuple(others), prices=known)


def least_of(
    parts: Sequence[Part],
    tables: Iterable[Cost],
    name: str,
    *,
    conflicts: Iterable[Conflict] = (),
    fixed: Mapping[str, int] | None = None,
    excluded: Collection[At] = (),
    seconds: float = _SECONDS,
) -> float:
    """The least that a figure of the tables can be, whatever is lost; arguments as in `choose`.

    Raises:
        ArgumentError: as `choose`; or what is fixed, excluded and in conflict leaves nothing.
        BudgetError: time ran out before a choice was found.
    """
    nothing = {part.name: np.zeros(len(part.alternatives)) for part in parts}
    apart = [(one.one, one.other) for one in conflicts]
    tables, limits = tuple(tables), {name: 1.0}
    problem = _Problem(parts, tables, nothing, {}, apart, fixed or {}, excluded, limits, seconds)
    found = problem.program.least(limits, seconds)
    if found.picked is None:
        raise problem.out_of_reach(limits)
    return totals(tables, found.picked).get(name, 0.0)


class _Problem:
    def __init__(self, parts, tables, damages, pairs, conflicts, fixed, excluded, limits, seconds):
        counts = {part.name: len(part.alternatives) for part in parts}
        _check(counts, len(parts), tables, damages, [*fixed.items(), *excluded], [*pairs, *conflicts], limits)
        self.tables, self.seconds = tables, seconds
        allowed = {
            name: [i for i in range(count) if fixed.get(name, i) == i and (name, i) not in set(excluded)]
            for name, count in counts.items()
        }
        for name, places in allowed.items():
            if not places:
                raise ArgumentError(f"What is fixed and excluded leaves no alternative of {name!r}: leave one open.")
        self.damages = [CostTable(name, (name,), {DAMAGE: damages[name]}) for name in counts]
        for (one, i), (other, j) in pairs:
            values = np.zeros((counts[one], counts[other]))
            values[i, j] = pairs[(one, i), (other, j)]
            self.damages.append(CostTable(_SUMMED, (one, other), {DAMAGE: values}))
        self.program = Program(allowed, [*tables, *self.damages], limits, conflicts)

    def best(
        self, limits: Mapping[str, float], without: Sequence[Mapping[str, int]] = (), seconds: float | None = None
    ) -> Choice | None:
        """The best choice; None where there is none.

        Raises:
            BudgetError: time ran out before one was found.
        """
        refused, end = list(without), time.monotonic() + (self.seconds if seconds is None else seconds)
        for _ in range(_REPAIRS):
            found = self.program.best(limits, refused, max(end - time.monotonic(), 1.0))
            if found.picked is None and found.in_time:
                return None
            if found.picked is None:
                break
            figures = totals(self.tables, found.picked)
            if all(figures.get(name, 0.0) <= limit * (1 + _EXCEEDED) for name, limit in limits.items()):
                return self._choice(found, figures)
            refused.append(found.picked)
        raise BudgetError(
            f"No choice within the limits was found in {self.seconds:.0f} seconds, nor was it ruled out. Allow more "
            "seconds, or offer fewer alternatives."
        )

    def another(self, limits: Mapping[str, float], without: Sequence[Mapping[str, int]] = ()) -> Choice | None:
        """`best`; None too where time runs out: what it is asked for beside a choice is no reason to lose that."""
        try:
            return self.best(limits, without, min(self.seconds, _BESIDE))
        except BudgetError:
            return None

    def _choice(self, found: Solved, figures: Mapping[str, float]) -> Choice:
        assert found.picked is not None
        damage = totals(self.damages, found.picked).get(DAMAGE, 0.0)
        return Choice(found.picked, damage, figures, gap=0.0 if found.in_time else max(damage - found.bound, 0.0))

    def price(self, name: str, best: Choice, limits: Mapping[str, float]) -> float | None:
        """Damage that one unit more of a limit saves; None where time runs out."""
        more = _MORE * limits[name]
        found = self.another({**limits, name: limits[name] + more})
        if found is None:
            return None
        return max(best.damage - found.damage, 0.0) / more * unit_of(name, limits[name])

    def out_of_reach(self, limits: Mapping[str, float]) -> BudgetError | ArgumentError:
        """The error for limits that no choice meets."""
        together = self.program.least(limits, self.seconds)
        if together.picked is None and together.in_time:
            return ArgumentError(
                "What is fixed, excluded and in conflict leaves no choice at all, whatever the limits. Fix or exclude "
                "fewer alternatives."
            )
        least = {}
        for name, limit in limits.items():
            found = self.program.least({name: limit}, self.seconds)
            if found.picked is not None:
                least[name] = totals(self.tables, found.picked).get(name, 0.0)
        said = ", ".join(f"{name} {value:,.0f} (asked for {limits[name]:,.0f})" for name, value in least.items())
        message = f"No choice of alternatives meets the budget. The least that each limit can be alone: {said}."
        if len(limits) > 1 and together.picked is not None:
            reached = totals(self.tables, together.picked)
            factor = max(reached.get(name, 0.0) / limit for name, limit in limits.items())
            larger = math.ceil(round(1000 * (factor - 1), 6)) / 10
            message += f" All together are met where each is {larger:.1f} % larger."
        return BudgetError(message, least)


def _check(counts, number, tables, damages, places, pairs, limits) -> None:
    if len(counts) < number:
        raise ArgumentError("Expected parts with a name of their own each. Received two of one name.")
    for part, place in [*places, *(at for pair in pairs for at in pair)]:
        if part not in counts:
            raise ArgumentError(f"There is no part {part!r}. There are: {', '.join(counts) or 'none'}.")
        if not 0 <= place < counts[part]:
            raise ArgumentError(f"The part {part!r} has {counts[part]} alternatives, from 0. Received: {place}.")
    for name, count in counts.items():
        if np.shape(damages.get(name)) != (count,) or not np.all(np.isfinite(damages[name])):
            raise ArgumentError(f"Expected {count} damages of the part {name!r}. Received: {damages.get(name)}.")
    known = {PEAK}
    for table in tables:
        if any(part not in counts for part in table.parts):
            raise ArgumentError(f"The table {table.name!r} depends on {table.parts}, not all of which are parts.")
        for own, values in table.arrays:
            wanted = tuple(counts[part] for part in own)
            if values.shape != wanted:
                raise ArgumentError(
                    f"An array of the table {table.name!r} must have the shape {wanted}. Received: {values.shape}."
                )
        for name, values in table.figures.items():
            known.add(name)
            limited = PEAK if name.startswith(MEMORY) else name
            if limited in limits and not np.all(np.isfinite(values)):
                raise ArgumentError(f"`{limited}` of the table {table.name!r} is unknown, so it cannot be limited.")
    for name in limits:
        if name not in known:
            raise ArgumentError(f"No table has the figure {name!r}, so it cannot be limited.")
