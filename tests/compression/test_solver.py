"""The solver against all choices one by one, and what it says where there is none."""

import itertools

import numpy as np
import pytest

from tfstruct.compression.alternatives.alternative import Alternative, Conflict, Part
from tfstruct.compression.alternatives.cost_table import CostTable, SharedCost, totals
from tfstruct.compression.alternatives.solver import choose, unit_of
from tfstruct.errors import ArgumentError, BudgetError


def part(name, count):
    return Part(name, "prune_channels", tuple(Alternative(f"{i}", {"n": i} if i else {}) for i in range(count)), ())


class Instance:
    """Parts with tables of one to three of them, memory at some moments, tried pairs and conflicts, all drawn."""

    def __init__(self, seed, moments=3):
        draw = self.draw = np.random.default_rng(seed)
        self.parts = [part(f"p{i}", int(draw.integers(1, 4))) for i in range(4)] + [part("last", 3)]
        self.counts = {one.name: len(one.alternatives) for one in self.parts}
        names = list(self.counts)
        self.damages = {name: np.r_[0.0, draw.exponential(1.0, n - 1)] for name, n in self.counts.items()}
        self.tables = [CostTable("whole", (), {"bytes": 3.0, "memory@0": 2.0})]
        for i in range(9):
            own = tuple(draw.permutation(names)[: draw.integers(1, 4)])
            shape = [self.counts[name] for name in own]
            figures = {"macs": draw.integers(0, 40, shape), "bytes": draw.random(shape)}
            figures |= {f"memory@{m}": draw.random(shape) for m in range(moments) if draw.random() < 0.7}
            self.tables.append(CostTable(f"t{i}", own, figures))
        for i in range(4):
            needs = []
            for _ in range(3):
                own = tuple(draw.permutation(names)[: draw.integers(1, 4)])
                needs.append((own, draw.random([self.counts[name] for name in own]) < 0.3))
            self.tables.append(SharedCost(f"s{i}", {"bytes": draw.random()}, needs))
        self.pairs, self.conflicts = {}, []
        for _ in range(4):
            one, other = self._two()
            self.pairs[one, other] = float(draw.normal())
        for _ in range(2):
            self.conflicts.append(Conflict(*self._two(), "drawn"))

    def _two(self):
        names = self.draw.permutation([name for name, count in self.counts.items() if count > 1])[:2]
        return tuple((str(name), int(self.draw.integers(1, self.counts[name]))) for name in names)

    def all(self, fixed, excluded):
        """Every choice with its damage, the least first."""
        found = []
        for places in itertools.product(*(range(n) for n in self.counts.values())):
            picked = dict(zip(self.counts, places, strict=True))
            if any(picked[name] != i for name, i in fixed.items()) or any(picked[n] == i for n, i in excluded):
                continue
            if any(one.excludes(picked) for one in self.conflicts):
                continue
            damage = sum(self.damages[name][i] for name, i in picked.items())
            damage += sum(d for (a, b), d in self.pairs.items() if picked[a[0]] == a[1] and picked[b[0]] == b[1])
            found.append((damage, picked, totals(self.tables, picked)))
        return sorted(found, key=lambda one: one[0])

    def limits(self, quantile):
        every = [figures for _, _, figures in self.all({}, ())]
        return {n: float(np.quantile([f[n] for f in every], quantile)) for n in ("macs", "bytes", "peak_memory")}


def meets(figures, limits):
    return all(figures[name] <= limit for name, limit in limits.items())


@pytest.mark.sweep(4)
@pytest.mark.parametrize("seed", range(40))
def test_the_best_of_all_choices(seed):
    made = Instance(seed)
    fixed = {"p1": made.counts["p1"] - 1} if seed % 3 == 0 else {}
    excluded = [("p2", 1)] if seed % 3 == 1 and made.counts["p2"] > 1 else []
    every = made.all(fixed, excluded)
    for quantile in (0.15, 0.4, 0.8):
        limits = made.limits(quantile)
        within = [one for one in every if meets(one[2], limits)]

        def solved(limits=limits, **options):
            return choose(
                made.parts, made.tables, made.damages, limits, pairs=made.pairs, conflicts=made.conflicts,
                fixed=fixed, excluded=excluded, **options,
            )  # fmt: skip

        if not within:
            with pytest.raises(BudgetError) as caught:
                solved()
            for name in limits:
                assert caught.value.least[name] == pytest.approx(min(figures[name] for _, _, figures in every))
            factor = min(max(f[name] / limit for name, limit in limits.items()) for _, _, f in every)
            assert f"{np.ceil(round(1000 * (factor - 1), 6)) / 10:.1f} % larger" in str(caught.value)
            continue
        found = solved()
        best = [found, *found.runners_up]
        assert [one.damage for one in best] == pytest.approx([damage for damage, _, _ in within[:4]])
        for one in best:
            assert meets(one.figures, limits) and one.figures == totals(made.tables, one.picked) and one.gap == 0
        for name, limit in limits.items():
            more = {**limits, name: 1.05 * limit}
            saved = within[0][0] - next(damage for damage, _, figures in every if meets(figures, more))
            assert found.prices[name] == pytest.approx(saved / (0.05 * limit) * unit_of(name, limit), abs=1e-9)


def test_a_program_that_presolve_gets_wrong():
    """HiGHS with its presolve says 3.84 here."""
    made = Instance(11)
    limits = made.limits(0.4)
    limits["bytes"] *= 1.05
    want = next(damage for damage, _, figures in made.all({}, ()) if meets(figures, limits))
    given = {"pairs": made.pairs, "conflicts": made.conflicts, "runners_up": 0, "prices": False}
    assert choose(made.parts, made.tables, made.damages, limits, **given).damage == pytest.approx(want)


def test_an_equal_figure_by_hand():
    """Two layers between three widths: the file of 24 bytes has the middle at 2, and that costs 0.3."""
    parts = [part("in", 2), part("middle", 2), part("out", 2)]
    widths = np.array([4.0, 2.0])
    tables = [
        CostTable("first", ("in", "middle"), {"tflite_bytes": np.outer(widths, widths)}),
        CostTable("second", ("out", "middle"), {"tflite_bytes": np.outer(widths, widths)}),
        CostTable("header", (), {"tflite_bytes": 8.0}),
    ]
    damages = {"in": [0, 0.2], "middle": [0, 0.3], "out": [0, 0.25]}
    found = choose(parts, tables, damages, {"tflite_bytes": 24})
    assert found.picked == {"in": 0, "middle": 1, "out": 0} and found.damage == pytest.approx(0.3)
    assert found.figures == {"tflite_bytes": 24.0}
    assert found.runners_up[0].picked == {"in": 1, "middle": 0, "out": 1}
    assert found.runners_up[0].damage == pytest.approx(0.45)
    assert choose(parts, tables, damages, {"tflite_bytes": 24}, pairs={(("in", 1), ("out", 1)): -0.2}).damage == 0.25


def test_limits_that_do_not_bind_change_nothing():
    parts = [part("a", 3)]
    found = choose(parts, [CostTable("a", ("a",), {"macs": [9, 5, 1]})], {"a": [0, 1, 2]}, {"macs": 9})
    assert found.picked == {"a": 0} and found.prices == {"macs": 0.0} and len(found.runners_up) == 2


def test_a_model_with_nothing_to_decide():
    table = CostTable("all", (), {"macs": 10.0})
    assert choose([], [table], {}, {"macs": 10}).figures == {"macs": 10.0}
    with pytest.raises(BudgetError, match=r"macs 10 \(asked for 9\)"):
        choose([], [table], {}, {"macs": 9})


def test_what_is_fixed_can_leave_nothing():
    parts = [part("a", 2), part("b", 2)]
    damages = {"a": [0, 1], "b": [0, 1]}
    clash = [Conflict(("a", 1), ("b", 1))]
    with pytest.raises(ArgumentError, match="leaves no choice at all"):
        choose(parts, [], damages, {}, conflicts=clash, fixed={"a": 1, "b": 1})
    with pytest.raises(ArgumentError, match="no alternative of 'a'"):
        choose(parts, [], damages, {}, fixed={"a": 1}, excluded=[("a", 1)])


@pytest.mark.parametrize(
    "change, match",
    [
        ({"fixed": {"c": 0}}, "There is no part 'c'"),
        ({"excluded": [("a", 2)]}, "has 2 alternatives"),
        ({"damages": {"a": [0, np.nan]}}, "Expected 2 damages"),
        ({"damages": {}}, "Expected 2 damages"),
        ({"limits": {"params": 3}}, "No table has the figure 'params'"),
        ({"tables": [CostTable("t", ("a",), {"macs": [1, 2, 3]})]}, r"must have the shape \(2,\)"),
        ({"tables": [CostTable("t", ("b",), {"macs": [1, 2]})]}, "not all of which are parts"),
        ({"tables": [CostTable("t", ("a",), {"macs": [1, np.nan]})]}, "is unknown"),
        (
            {"tables": [CostTable("t", ("a",), {"memory@0": [1, np.nan]})], "limits": {"peak_memory": 3}},
            "`peak_memory` of the table 't' is unknown",
        ),
    ],
)
def test_arguments_that_do_not_fit(change, match):
    given = {
        "parts": [part("a", 2)], "tables": [CostTable("t", ("a",), {"macs": [2, 1]})], "damages": {"a": [0, 1]},
        "limits": {"macs": 1}, **change,
    }  # fmt: skip
    with pytest.raises(ArgumentError, match=match):
        choose(**given)
