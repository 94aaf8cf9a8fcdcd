"""Ranks by layer that meet a budget of MACs with the least error for each MAC saved."""

import dataclasses
import itertools
from collections.abc import Sequence

from tfstruct.errors import BudgetError
from tfstruct.surgery.factor.factors import Rank


@dataclasses.dataclass(frozen=True)
class Option:
    """A layer at one rank; rank None is the unchanged layer.

    Attributes:
        macs: in all its calls.
        error: ||W - W'||_F^2 / ||W||_F^2.
    """

    rank: Rank | None
    macs: float
    error: float


def choose(options: Sequence[Sequence[Option]], limit: float, rest: float, name: str) -> list[Option]:
    """Chooses one option for each layer so that their MACs plus `rest` (of all other layers) are at most `limit`.

    Steps along the lower convex hulls of (MACs, error), the smallest error for each MAC saved first, until the budget
    is met; then what the last steps overshot is given back, the largest rank that still fits.

    Args:
        options: for each layer, the one without a rank among them.

    Raises:
        BudgetError: the smallest of all options together are above the limit.
    """
    hulls = [_hull(own) for own in options]
    least = rest + sum(hull[-1].macs for hull in hulls)
    if least > limit:
        raise BudgetError(
            f"`macs` asks `{name}` for at most {limit:,.0f} MACs; the factors of rank 1 of all chosen layers leave "
            f"{least:,.0f}. Give a larger budget, more layers, or another method.",
            {"macs": least},
        )
    steps = [
        ((after.error - before.error) / (before.macs - after.macs), i, place)
        for i, hull in enumerate(hulls)
        for place, (before, after) in enumerate(itertools.pairwise(hull), 1)
    ]
    chosen = [hull[0] for hull in hulls]
    total = rest + sum(option.macs for option in chosen)
    taken = []
    for _, i, place in sorted(steps):
        if total <= limit:
            break
        total += hulls[i][place].macs - chosen[i].macs
        chosen[i] = hulls[i][place]
        taken.append(i)
    for i in dict.fromkeys(reversed(taken)):
        spare = limit - total + chosen[i].macs
        best = min((o for o in options[i] if o.macs <= spare), key=lambda o: (o.error, o.macs))
        total += best.macs - chosen[i].macs
        chosen[i] = best
    return chosen


def _hull(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull, from the layer as it is down to the fewest MACs."""
    best: list[Option] = []
    for option in sorted(options, key=lambda o: (-o.macs, o.error)):
        if best and option.macs == best[-1].macs:
            continue
        # What costs more and errs more than `option` is never taken.
        while len(best) > 1 and best[-1].error >= option.error:
            best.pop()
        while len(best) > 1 and _slope(best[-2], best[-1]) >= _slope(best[-2], option):
            best.pop()
        best.append(option)
    return best


def _slope(a: Option, b: Option) -> float:
    return (b.error - a.error) / (a.macs - b.macs)
