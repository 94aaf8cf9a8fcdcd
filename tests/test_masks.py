"""Masks against a plain oracle: sorted lists and loops, no vector code."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfstruct import masks
from tfstruct.errors import ArgumentError
from tfstruct.masks import Pattern, Scores, choose, highest, highest_in_runs, kept

PATTERNS = [Pattern.parse("element"), Pattern.parse("block", (2, 3)), Pattern.parse("row"), Pattern.parse("filter")]
SHAPE = (2, 4, 6)


def members(pattern: Pattern, shape) -> list[list[tuple[int, int, int]]]:
    """The weights of each unit, in the order of the units."""
    taps, inputs, outputs = shape
    every = [(t, i, o) for t in range(taps) for i in range(inputs) for o in range(outputs)]
    if pattern.kind == "element":
        return [[place] for place in every]
    if pattern.kind == "row":
        return [[p for p in every if p[1] == i] for i in range(inputs)]
    if pattern.kind == "filter":
        return [[p for p in every if p[2] == o] for o in range(outputs)]
    rows, columns = pattern.block
    return [
        [p for p in every if (p[0] * inputs + p[1]) // rows == r and p[2] // columns == c]
        for r in range(taps * inputs // rows)
        for c in range(outputs // columns)
    ]


def oracle(scores: np.ndarray, ratio: float, pattern: Pattern) -> np.ndarray:
    units = members(pattern, scores.shape)
    means = [np.mean([scores[p] for p in unit]) for unit in units]
    count = max(round(len(units) * (1 - ratio)), 1)
    best = sorted(range(len(units)), key=lambda u: (-means[u], u))[:count]
    mask = np.zeros(scores.shape, bool)
    for unit in best:
        for place in units[unit]:
            mask[place] = True
    return mask


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.77, 0.99])
def test_one_kernel(pattern, ratio):
    # Whole numbers: many units tie, and their means are exact.
    scores = np.random.default_rng(0).integers(0, 4, SHAPE).astype("float64")
    (mask,) = choose([scores], ratio, pattern)
    np.testing.assert_array_equal(mask, oracle(scores, ratio, pattern))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_units_and_spread(pattern):
    values = np.arange(48.0).reshape(SHAPE)
    units = members(pattern, SHAPE)
    np.testing.assert_allclose(pattern.units(values), [np.mean([values[p] for p in unit]) for unit in units])
    spread = pattern.spread(np.arange(len(units)), SHAPE)
    assert spread.shape == SHAPE
    for number, unit in enumerate(units):
        assert {int(spread[p]) for p in unit} == {number}


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.floats(0, 0.999))
@settings(max_examples=100, deadline=None)
def test_exact_count_the_highest_and_ties_by_index(values, ratio):
    scores = np.array(values, float)
    count = max(round(len(values) * (1 - ratio)), 1)
    assert kept(len(values), ratio) == count
    wanted = sorted(range(len(values)), key=lambda i: (-scores[i], i))[:count]
    np.testing.assert_array_equal(np.flatnonzero(highest(scores, count)), sorted(wanted))


def test_half_to_even_and_never_empty():
    assert [kept(5, 0.5), kept(7, 0.5), kept(3, 0.99), kept(0, 0.5)] == [2, 4, 1, 0]
    assert highest(np.zeros(10), 5).tolist() == [True] * 5 + [False] * 5
    assert highest(np.zeros(3), 0).sum() == 0 and highest(np.zeros(3), 9).sum() == 3


@given(st.integers(1, 3), st.integers(1, 11), st.integers(1, 4), st.integers(2, 5), st.data())
@settings(max_examples=100, deadline=None)
def test_runs(taps, inputs, outputs, m, data):
    n = data.draw(st.integers(1, m - 1))
    seed = data.draw(st.integers(0, 99))
    scores = np.random.default_rng(seed).integers(0, 3, (taps, inputs, outputs)).astype(float)
    mask = highest_in_runs(scores, n, m)
    for t in range(taps):
        for o in range(outputs):
            for start in range(0, inputs, m):
                run = scores[t, start : start + m, o]
                filled = m - len(run)  # zeros beyond the end count among the n
                stay = sorted(range(len(run)), key=lambda i: (-run[i], i))[: len(run) - max(n - filled, 0)]
                assert np.flatnonzero(mask[t, start : start + m, o]).tolist() == sorted(stay)


def test_runs_take_what_the_ratio_has_whole():
    scores = np.arange(16.0).reshape(1, 16, 1)
    pattern = Pattern.parse("2:4")
    gone = [int((~choose([scores], ratio, pattern)[0]).sum()) for ratio in (0, 0.24, 0.25, 0.49, 0.5)]
    assert gone == [0, 0, 4, 4, 8]
    assert pattern.ratio == 0.5 and str(pattern) == "2:4"
    assert int((~choose([scores], 1 / 3, Pattern.parse("1:3"))[0]).sum()) == 5  # the sixth run is one of three


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.9, 0.999])
def test_together_is_one_list_where_one_of_each_stays(ratio):
    rng = np.random.default_rng(1)
    scores = [rng.permutation(24).astype(float).reshape(1, 4, 6), 100 + rng.random((1, 3, 5)), -rng.random((1, 2, 2))]
    found = choose(scores, ratio, PATTERNS[0], together=True)
    flat = np.concatenate([s.ravel() for s in scores])
    best = [24 * 0 + int(scores[0].argmax()), 24 + int(scores[1].argmax()), 39 + int(scores[2].argmax())]
    count = max(round(43 * (1 - ratio)), 1)
    order = best + [i for i in np.argsort(-flat, kind="stable") if i not in best]
    wanted = np.isin(np.arange(43), order[: max(count, 3)])
    np.testing.assert_array_equal(np.concatenate([m.ravel() for m in found]), wanted)


@given(st.integers(0, 10_000), st.floats(0, 0.999))
@settings(max_examples=60, deadline=None)
def test_together_with_units_of_different_size(seed, ratio):
    rng = np.random.default_rng(seed)
    shapes = [tuple(int(n) for n in rng.integers(1, 6, 3)) for _ in range(3)]
    scores = [rng.random(shape) for shape in shapes]
    found = choose(scores, ratio, Pattern.parse("filter"), together=True)
    sizes = [shape[0] * shape[1] for shape in shapes]
    total = sum(s.size for s in scores)
    wanted = total - max(round(total * (1 - ratio)), 1)
    gone = sum(int((~mask).sum()) for mask in found)
    assert gone <= wanted
    for mask, size, score in zip(found, sizes, scores, strict=True):
        filters = mask.all((0, 1))
        assert (mask.any((0, 1)) == filters).all() and filters.any()
        assert filters[score.mean((0, 1)).argmax()]
        if filters.sum() > 1:  # no unit that could still go stayed
            assert wanted - gone < size


def test_chosen_again_nothing_changes():
    rng = np.random.default_rng(3)
    for pattern in [*PATTERNS, Pattern.parse("2:4"), Pattern.parse("1:3")]:
        together = pattern.kind in ("filter", "row")
        scores = [rng.random(SHAPE), rng.random((1, 8, 9))]
        first = choose(scores, 0.5, pattern, together)
        dead = [np.where(mask, rng.random(mask.shape), -np.inf) for mask in first]
        for a, b in zip(first, choose(dead, 0.5, pattern, together), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "name, block, message",
    [
        ("elements", None, '"element", "block", "row", "filter", or N:M such as "2:4". Received: \'elements\''),
        (4, None, "`pattern` must be"),
        ("4:4", None, "N must be in 1..M-1. Received: '4:4'"),
        ("0:4", None, "N must be in 1..M-1"),
        ("block", None, r"needs `block=\(rows, columns\)`"),
        ("block", (2, 0), "two positive integers"),
        ("block", (2,), "two positive integers"),
        ("row", (2, 2), "`block` goes with pattern='block'"),
    ],
)
def test_bad_patterns(name, block, message):
    with pytest.raises(ValueError, match=message):
        Pattern.parse(name, block)


def test_misfits():
    assert Pattern.parse("block", (2, 3)).misfit((1, 4, 6)) is None
    assert "4 x 7 matrix does not divide into blocks of (2, 3)" in Pattern.parse("block", (2, 3)).misfit((2, 2, 7))
    assert "reads one input channel only" in Pattern.parse("2:4").misfit((9, 1, 8))
    assert Pattern.parse("element").misfit((9, 1, 8)) is None


@pytest.mark.parametrize("sample", [1 << 15, 2], ids=["a good sample", "a sample that misses"])
@pytest.mark.parametrize("kind", ["all different", "many alike", "all alike", "some dead"])
def test_large_kernels_are_looked_at_in_pieces(kind, sample, monkeypatch):
    monkeypatch.setattr(masks, "_SAMPLE", sample)
    rng = np.random.default_rng(4)
    shapes = [(1, 300, 500), (3, 7, 11), (1, 90, 1000)]
    weights = [rng.normal(size=shape).astype("float32") for shape in shapes]
    if kind in ("many alike", "all alike"):
        weights = [np.round(w) if kind == "many alike" else np.ones_like(w) for w in weights]
    alive = [rng.random(shape) < 0.4 for shape in shapes] if kind == "some dead" else [None] * 3
    every = [Scores(lambda w=w: w, np.abs, a) for w, a in zip(weights, alive, strict=True)]
    plain = [np.abs(w) if a is None else np.where(a, np.abs(w), -np.inf) for w, a in zip(weights, alive, strict=True)]
    for ratio in (0.003, 0.5, 0.9, 0.99999):
        found = choose(every, ratio, PATTERNS[0])
        for mask, scores in zip(found, plain, strict=True):
            order = np.argsort(-scores.ravel(), kind="stable")[: kept(scores.size, ratio)]
            np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(order))
        flat = np.concatenate([scores.ravel() for scores in plain])
        starts = np.cumsum([0, *(scores.size for scores in plain)])
        flat[[start + scores.argmax() for start, scores in zip(starts, plain, strict=False)]] = np.inf
        order = np.argsort(-flat, kind="stable")[: max(kept(flat.size, ratio), 3)]
        together = np.concatenate([mask.ravel() for mask in choose(every, ratio, PATTERNS[0], together=True)])
        np.testing.assert_array_equal(np.flatnonzero(together), np.sort(order))


@pytest.mark.parametrize("together", [False, True])
def test_masks_take_a_byte_a_weight_and_scores_no_copy(together):
    weights = [np.random.default_rng(i).normal(size=(1, 500, 1000)).astype("float32") for i in range(3)]
    tracemalloc.start()
    found = choose([Scores(lambda w=w: w, np.abs) for w in weights], 0.5, PATTERNS[0], together)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(int(mask.sum()) for mask in found) == 750_000
    assert peak < 2.5e6 + 1.5e6  # the masks, and a few pieces and the drawn ones beside them; a copy has 6e6


@pytest.mark.parametrize("together", [False, True])
def test_scores_that_are_no_numbers_are_refused(together):
    scores = np.ones((1, 4, 100))
    scores[0, 1:] = np.nan
    with pytest.raises(ArgumentError, match="Scores must be numbers"):
        choose([scores], 0.5, Pattern("element"), together)
