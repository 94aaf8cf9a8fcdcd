"""The front over a limit: each of its points is the best choice of all, and prices are slopes between them."""

import itertools

import numpy as np
import pytest

from tfstruct.compression.alternatives.alternative import Alternative, Conflict, Part
from tfstruct.compression.alternatives.cost_table import CostTable, totals
from tfstruct.compression.alternatives.front import front
from tfstruct.compression.alternatives.solver import least_of, more_in_words, unit_of
from tfstruct.errors import ArgumentError, BudgetError

WIDTHS = np.array([64.0, 48, 32, 16])
PRODUCT = np.outer(WIDTHS, WIDTHS)
PARTS = [
    Part.of(
        f"width of {name}", "prune_channels", [Alternative(f"{w:.0f} channels", {"width": w}) for w in WIDTHS[1:]], ()
    )
    for name in ("first", "second")
]
NAMES = [part.name for part in PARTS]
TABLES = [
    CostTable("first", NAMES[:1], {"tflite_bytes": 100 * WIDTHS, "latency_us": WIDTHS}),
    CostTable(
        "second", NAMES, {"tflite_bytes": 9 * np.outer(WIDTHS, WIDTHS), "latency_us": np.outer(WIDTHS, WIDTHS) / 9}
    ),
]
DAMAGES = {NAMES[0]: np.array([0, 0.1, 0.3, 0.9]), NAMES[1]: np.array([0, 0.05, 0.2, 0.5])}


def every():
    for places in itertools.product(range(4), repeat=2):
        picked = dict(zip(NAMES, places, strict=True))
        yield picked, sum(DAMAGES[name][i] for name, i in picked.items()), totals(TABLES, picked)


def test_each_point_is_the_best_of_all_within_its_limit():
    found = front(PARTS, TABLES, DAMAGES, count=8)
    assert found.whole == 100 * 64 + 9 * 64 * 64 and found.points[-1].damage == 0 and found.points[-1].changes == {}
    assert found.points[0].limit == pytest.approx(100 * 16 + 9 * 16 * 16)
    for point in found.points:
        best = min(damage for _, damage, figures in every() if figures["tflite_bytes"] <= point.limit)
        assert point.damage == pytest.approx(best) and point.figures["tflite_bytes"] <= point.limit
    damages = [point.damage for point in found.points]
    assert damages == sorted(damages, reverse=True) and len(set(damages)) == len(damages) > 4


def test_prices_are_slopes_in_words():
    found = front(PARTS, TABLES, DAMAGES, count=8)
    for point, following in itertools.pairwise(found.points):
        slope = (point.damage - following.damage) / (following.limit - point.limit)
        assert point.price == pytest.approx(1000 * slope)
    assert more_in_words("peak_memory") == more_in_words("gzip_bytes") == "1 kB more"
    assert unit_of("macs", 100_000) == 1000 and more_in_words("macs") == "1 % more"  # a thousand of no bytes
    first, last = found.points[0], found.points[-1]
    assert found.price_in_words(first) == f"1 kB more would save {first.price:.2g} of the loss"
    assert found.price_in_words(last) == "more would save nothing"
    assert "1 % more would save" in str(front(PARTS, TABLES, DAMAGES, "latency_us", damage="error"))
    assert "width of first: 16 channels; width of second: 16 channels" in found.to_csv()


def test_other_limits_hold_at_every_point():
    found = front(PARTS, TABLES, DAMAGES, limits={"latency_us": 200, "tflite_bytes": 3}, count=8)
    assert all(point.figures["latency_us"] <= 200 for point in found.points) and found.others == {"latency_us": 200}
    assert "limit of latency_us" in str(found)
    with pytest.raises(BudgetError, match="The least that each limit can be alone"):
        front(PARTS, TABLES, DAMAGES, limits={"latency_us": 1})


def test_conflicts_and_what_is_fixed():
    apart = [Conflict((NAMES[0], 3), (NAMES[1], 3))]
    least = 100 * 16 + 9 * 16 * 32
    assert least_of(PARTS, TABLES, "tflite_bytes", conflicts=apart) == least
    assert front(PARTS, TABLES, DAMAGES, conflicts=apart).points[0].figures["tflite_bytes"] == least
    held = front(PARTS, TABLES, DAMAGES, fixed={NAMES[0]: 0}, excluded=[(NAMES[1], 3)])
    assert all(NAMES[0] not in point.changes for point in held.points)
    assert held.points[0].changes == {NAMES[1]: "32 channels"}


def test_wrong_arguments():
    with pytest.raises(ArgumentError, match="2 or more"):
        front(PARTS, TABLES, DAMAGES, count=1)
    with pytest.raises(ArgumentError, match="no front over it"):
        front(PARTS, TABLES, DAMAGES, "macs")
    with pytest.raises(ArgumentError, match="leaves no choice at all"):
        least_of(PARTS, TABLES, "tflite_bytes", conflicts=[Conflict((NAMES[0], 1), (NAMES[1], 1))],
                 fixed={NAMES[0]: 1, NAMES[1]: 1})  # fmt: skip
