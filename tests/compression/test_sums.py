"""Sums over parts: their arithmetic is that of the numbers at every choice."""

import itertools

import numpy as np
import pytest

from tfstruct.compression.alternatives.sums import Sum, total

SIZES = {"a": 2, "b": 3, "c": 4}


def drawn(rng):
    names = [name for name in SIZES if rng.random() < 0.6]
    rng.shuffle(names)
    return Sum.joint(names, rng.integers(0, 5, [SIZES[name] for name in names])) + Sum.of(rng.integers(0, 3))


@pytest.mark.parametrize("seed", range(6))
def test_arithmetic_at_every_choice(seed):
    rng = np.random.default_rng(seed)
    x, y, z = (drawn(rng) for _ in range(3))
    made = (x + y) * z - x * 2.0
    for places in itertools.product(*map(range, SIZES.values())):
        picked = dict(zip(SIZES, places, strict=True))
        want = (x.at(picked) + y.at(picked)) * z.at(picked) - 2 * x.at(picked)
        assert made.at(picked) == made.reduced().at(picked) == pytest.approx(want)
        assert made.together()[tuple(picked[part] for part in made.parts)] == pytest.approx(want)
    first = dict.fromkeys(SIZES, 0)
    assert made.base == pytest.approx(made.at(first)) and total([x, y]).at(first) == pytest.approx((x + y).at(first))


def test_what_changes_nothing_goes():
    same = Sum.joint(("b", "a"), np.array([[2.0, 3.0]] * 3))
    assert list(same.reduced().terms) == [("a",)] and same.reduced().terms["a",].tolist() == [2, 3]
    assert not Sum.by("a", [0, 0]).reduced().terms
    assert Sum.where("a", 3, [0, 2]).terms["a",].tolist() == [1, 0, 1]
