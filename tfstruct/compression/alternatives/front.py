"""`front`: the choices of least damage over all values of one limit, found without training; `Front`, its report."""

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from tfstruct.compression.alternatives.alternative import At, Conflict, Part
from tfstruct.compression.alternatives.cost_table import Cost, totals
from tfstruct.compression.alternatives.solver import Choice, choose, least_of, more_in_words, unit_of
from tfstruct.errors import ArgumentError, BudgetError
from tfstruct.reporting import Plotted, Report, Sheet
from tfstruct.reporting.figures import GREY
from tfstruct.reporting.tables import counted

_LABELS = {
    "tflite_bytes": "file, bytes", "macs": "MACs", "latency_us": "latency, µs", "params": "parameters",
    "peak_memory": "peak memory, bytes",
}  # fmt: skip
_SHOWN = 6  # changed parts in a row


@dataclasses.dataclass(frozen=True)
class FrontPoint:
    """The choice of least damage within one value of the limit.

    Attributes:
        limit: that value.
        figures: what the choice costs, by name.
        damage: what it is predicted to lose.
        price: the damage that one unit more of the limit saves, up to the next point; 0 at the last.
        changes: part -> the alternative that is picked, of parts that do not stay as they are.
    """

    limit: float
    figures: Mapping[str, float]
    damage: float
    price: float
    changes: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Front(Plotted, Report):
    """The choices of least damage over one limit.

    `plot` draws the predicted damage over what the choices cost.

    Attributes:
        limit: the figure that is limited.
        damage: what it is a rise of, such as "loss".
        whole: the figure of the model as it is.
        points: from the least that can be reached to the whole.
        others: the limits that are met besides, and their values.
    """

    limit: str
    damage: str
    whole: float
    points: tuple[FrontPoint, ...]
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "points", tuple(self.points))

    def price_in_words(self, point: FrontPoint) -> str:
        """What a little more of the limit would save at a point: "1 kB more would save 0.02 of the loss"."""
        if not point.price > 0:
            return "more would save nothing"
        return f"{more_in_words(self.limit)} would save {point.price:.2g} of the {self.damage}"

    def sheet(self) -> Sheet:
        columns = (
            (_LABELS.get(self.limit, self.limit), ",.0f"), ("of the whole", ".0%"),
            (f"{self.damage}, predicted rise", ".4g"), "price", "changes",
        )  # fmt: skip
        rows = [
            (
                point.figures[self.limit], point.figures[self.limit] / self.whole, point.damage,
                self.price_in_words(point), _said(point.changes),
            )
            for point in self.points
        ]  # fmt: skip
        facts = [(f"limit of {name}", f"{value:,.0f}") for name, value in self.others.items()]
        title = f"{counted(len(rows), 'choice')} of least predicted damage by {self.limit}, nothing trained"
        return Sheet(title, columns, rows, facts=facts)

    def _draw(self, axis) -> None:
        x = [point.figures[self.limit] for point in self.points]
        axis.plot(x, [point.damage for point in self.points], "o-", label="predicted, nothing trained")
        axis.axvline(self.whole, linestyle=":", color=GREY, label="as it is")
        axis.set(xlabel=_LABELS.get(self.limit, self.limit), ylabel=f"{self.damage}, predicted rise")
        axis.legend()


def front(
    parts: Sequence[Part],
    tables: Iterable[Cost],
    damages: Mapping[str, np.ndarray],
    limit: str = "tflite_bytes",
    *,
    limits: Mapping[str, float] | None = None,
    count: int = 10,
    damage: str = "loss",
    pairs: Mapping[tuple[At, At], float] | None = None,
    conflicts: Iterable[Conflict] = (),
    fixed: Mapping[str, int] | None = None,
    excluded: Collection[At] = (),
) -> Front:
    """The choices of least damage at several values of one limit, from the least that can be reached to the model as it
    is; each is found exactly, and nothing is trained.

    Args:
        parts, tables, damages, pairs, conflicts, fixed, excluded: as in `solver.choose`.
        limit: the figure that is limited.
        limits: others that are met at every point; values of `limit` at which these are out of reach are left out.
        count: of values, two at least, in equal ratios.
        damage: what `damages` are a rise of.

    Raises:
        ArgumentError: a figure that no table has.
        BudgetError: the other limits are out of reach at every value.
    """
    tables, conflicts, limits = tuple(tables), tuple(conflicts), dict(limits or {})
    if count < 2:
        raise ArgumentError(f"`count` must be 2 or more. Received: {count}.")
    limits.pop(limit, None)
    whole = totals(tables, {part.name: 0 for part in parts}).get(limit)
    if whole is None:
        raise ArgumentError(f"No table has the figure {limit!r}, so there is no front over it.")
    least = least_of(parts, tables, limit, conflicts=conflicts, fixed=fixed, excluded=excluded)
    values = np.geomspace(least, max(whole, least), count) if least > 0 else np.linspace(0, whole, count)
    found: list[tuple[float, Choice]] = []
    missed = None
    for value in values:
        at = float(value) * (1 + 1e-9)  # the least is a sum of floats
        try:
            one = choose(
                parts, tables, damages, {**limits, limit: at}, pairs=pairs, conflicts=conflicts, fixed=fixed,
                excluded=excluded, runners_up=0, prices=False,
            )  # fmt: skip
        except BudgetError as error:
            missed = error
            continue
        if not found or one.damage < found[-1][1].damage:
            found.append((at, one))
    if not found:
        assert missed is not None
        raise missed
    prices = [
        (one.damage - other.damage) / (more - value) * unit_of(limit, value)
        for (value, one), (more, other) in itertools.pairwise(found)
    ]
    points = [
        FrontPoint(value, dict(one.figures), one.damage, price, {p.name: a.name for p, a in one.changes(parts).items()})
        for (value, one), price in zip(found, [*prices, 0.0], strict=True)
    ]
    return Front(limit, damage, whole, tuple(points), limits)


def _said(changes: Mapping[str, str]) -> str:
    said = [f"{part}: {name}" for part, name in list(changes.items())[:_SHOWN]]
    more = len(changes) - len(said)
    return "; ".join([*said, *([f"and {more} more"] if more else [])]) or "none"
