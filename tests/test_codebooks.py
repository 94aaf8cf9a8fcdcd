"""Codebooks against brute force."""

import itertools

import numpy as np
import pytest

from tfstruct import codebooks
from tfstruct.kmeans import searched


def best_error(values: np.ndarray, count: int) -> float:
    """The least squared error of `count` centroids: in one dimension clusters are runs of the sorted values."""
    ordered = np.sort(values)
    cuts = itertools.combinations(range(1, len(ordered)), count - 1)
    return min(sum(((run - run.mean()) ** 2).sum() for run in np.split(ordered, cut)) for cut in cuts)


@pytest.mark.parametrize("init", codebooks.INITS)
def test_kmeans(init):
    values = np.random.default_rng(0).normal(size=14)
    centroids, group = codebooks.kmeans(values, 4, init)
    assert list(centroids) == sorted(centroids) and len(centroids) <= 4
    np.testing.assert_array_equal(group, np.abs(values[:, None] - centroids).argmin(1))
    for k, centroid in enumerate(centroids):
        assert centroid == pytest.approx(values[group == k].mean())
    error = np.square(values - centroids[group]).sum()
    assert error >= best_error(values, 4) * (1 - 1e-9)
    if init == "kmeans++":
        assert error == pytest.approx(best_error(values, 4))


def test_few_distinct_values_are_kept():
    centroids, group = codebooks.kmeans(np.array([3.0, 1.0, 3.0, 1.0]), 16)
    assert list(centroids) == [1.0, 3.0] and list(group) == [1, 0, 1, 0]


def test_initial_centroids():
    values = np.arange(101.0)
    np.testing.assert_allclose(codebooks.initial(values, 5, "linear"), [0, 25, 50, 75, 100])
    np.testing.assert_allclose(codebooks.initial(values**2, 5, "density"), np.array([0, 25, 50, 75, 100]) ** 2)
    np.testing.assert_allclose(codebooks.initial(values, 5, "quantile"), [10, 30, 50, 70, 90])


def test_groups_by_value_keep_zeros():
    values = np.array([0.0, 0.1, -0.1, 0.0, 5.0], "float32")
    ((group,),) = codebooks.by_value([[values]], 3, "kmeans++", keep_zeros=True, seed=0)
    assert group[0] == group[3] == 0 and group[1] == group[2] > 0 and group[4] not in (0, group[1])


def test_united_is_the_signed_mean():
    values, groups, signs = np.array([1.0, -3.0, 7.0, 9.0]), np.array([1, 1, 2, 0]), np.array([1, -1, 1, 1])
    (found,) = codebooks.united([values], [groups], [signs], keep_zeros=False)
    np.testing.assert_array_equal(found, [2.0, -2.0, 7.0, 0.0])


def test_entropy():
    assert codebooks.entropy(np.array([1, 1, 2, 3])) == pytest.approx(1.5)
    assert codebooks.entropy(np.zeros(5)) == 0


def lloyd(values, centroids, price):
    """The rounds as they are defined: (v - c_k)^2 + price * -log2 p_k, the first one without a price."""
    nearest = np.square(values[:, None] - centroids).argmin(1)
    while True:
        shares = np.bincount(nearest, minlength=len(centroids)) / len(values)
        means = [values[nearest == k].mean() if shares[k] else np.nan for k in range(len(centroids))]
        centroids = np.array(means)[shares > 0]
        cost = np.square(values[:, None] - centroids) - price * np.log2(shares[shares > 0])
        before, nearest = nearest, cost.argmin(1)
        if len(centroids) == len(shares) and np.array_equal(before, nearest):
            return centroids, nearest


def test_a_price_of_bits():
    values = np.random.default_rng(0).normal(size=2000)
    free, nearest = codebooks.kmeans(values, 16, "quantile")
    paid, dearer = codebooks.kmeans(values, 16, "quantile", price=0.02)
    wanted, assigned = lloyd(values, free, 0.02)
    np.testing.assert_allclose(paid, wanted, rtol=1e-9)
    np.testing.assert_array_equal(dearer, assigned)
    assert codebooks.entropy(dearer) < codebooks.entropy(nearest) - 0.2
    # Five centroids without a price come to more bits at a larger error.
    paid, dearer = codebooks.kmeans(values, 16, "quantile", price=0.1)
    fewer, plain = codebooks.kmeans(values, 5)
    assert codebooks.entropy(plain) > codebooks.entropy(dearer)
    assert np.square(values - fewer[plain]).mean() > np.square(values - paid[dearer]).mean()


def test_bits_are_met_and_large_codebooks_get_fewer():
    random = np.random.default_rng(0)
    small, large = random.normal(size=400), 7 * random.normal(size=8000)
    groups = [found for (found,) in codebooks.by_value([[small], [large]], 16, bits=3.0)]
    each = [codebooks.entropy(found) for found in groups]
    assert 2.9 < np.average(each, weights=[400, 8000]) <= 3.0
    assert each[0] > 3.4 > 3.0 > each[1]


def test_integer_limit():
    assert codebooks.integer_limit(np.array([-2.54, 0.02, 1.0])) == pytest.approx(2.54)
    values = np.array([127.0, 10.5])  # at the limit 127 the second one lies at a half
    limit = codebooks.integer_limit(values)
    assert 127 < limit <= 127 * 1.01
    for top in (127, 7):
        steps = values / limit * top
        assert np.abs(steps - np.floor(steps) - 0.5).min() >= 1e-3 and round(steps[0]) == top


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 32, 33, 64])
@pytest.mark.parametrize("first", [0, 1, 240])
def test_places_between_borders(first, count, dtype):
    rng = np.random.default_rng(2)
    borders, values = np.sort(rng.normal(size=count)), rng.normal(size=70_000).astype(dtype)
    values[:count] = borders.astype(dtype)
    values[-2:] = np.inf, -np.inf
    expected = first + np.searchsorted(borders, values.astype(float))
    np.testing.assert_array_equal(searched(borders, values, first), expected)


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("tails", ["light", "heavy"])
def test_a_summary_of_many_values_gives_the_codebook_of_all(tails, zeros):
    """Rounds of Lloyd's algorithm on all values, from the centroids that were found, gain next to nothing."""
    rng = np.random.default_rng(3)
    size = 600_000
    values = (rng.normal(size=size) if tails == "light" else rng.standard_t(3, size)).astype("float32")
    values[rng.random(size) < 0.3] = 0 if not zeros else values[0]
    ((group,),) = codebooks.by_value([[values]], 16, keep_zeros=not zeros)
    means = np.bincount(group, values) / np.maximum(np.bincount(group), 1)
    found = np.square(values - means[group]).sum()
    free = values if zeros else values[values != 0]
    better = means[1:].copy()
    for _ in range(10):
        nearest = np.searchsorted((better[1:] + better[:-1]) / 2, free)
        better = np.bincount(nearest, free) / np.bincount(nearest)
    assert len(np.unique(group)) == 16 and (zeros or np.array_equal(group == 0, values == 0))
    assert found < 1.005 * np.square(free - better[nearest]).sum()


def test_distinct_values_are_counted_without_sorting_all():
    rng = np.random.default_rng(5)
    few = rng.normal(size=7).astype("float32")
    values = rng.choice(few, (300, 1000))
    values[0, 0] = 9.0  # one that a sample misses
    for found, wanted in zip(codebooks.distinct(values), np.unique(values, return_counts=True), strict=True):
        np.testing.assert_array_equal(found, wanted)
