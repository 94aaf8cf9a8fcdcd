"""Every calibrator against NumPy on known data."""

import numpy as np
import pytest

from tfstruct.precisions import CALIBRATORS
from tfstruct.quantize.calibrators import (
    Entropy,
    Histogram,
    MeanSquaredError,
    MinMax,
    MovingAverage,
    Percentile,
    calibrator_of,
)  # fmt: skip


def fed(seen, samples):
    for sample in samples:
        seen.update(np.asarray(sample, np.float32))
    return seen


def width(seen):
    return 2 * seen.limit / seen.bins


def true_error(x, low, high, bits):
    """mean (x - Q(x))^2 of the values themselves, quantized to 2^bits levels with an exact zero."""
    step = (high - low) / (2**bits - 1)
    zero = np.round(-low / step)
    q = np.clip(np.round(x / step) + zero, 0, 2**bits - 1)
    return float(np.mean(np.square((q - zero) * step - x)))


def normal_with_outliers(rng, size=200_000, far=40.0):
    """One value in 100,000 lies at `far`, on either side."""
    x = rng.normal(size=size).astype(np.float32)
    x[: size // 100_000] = far * np.array([1, -1] * (size // 200_000))
    return rng.permutation(x)


def test_minmax():
    samples = [[1.0, 2.0], [-3.0, 0.5], [0.0, 1.5]]
    assert fed(MinMax(), samples).range() == (-3.0, 2.0)
    assert fed(MinMax(), [[[4.0]], [[5.0]]]).range() == (4.0, 5.0)


def test_moving_average_by_hand():
    seen = fed(MovingAverage(0.75), [[-1.0, 3.0, 0.5]])
    np.testing.assert_allclose(seen.range(), (-1.0, 3.0))  # not (1 - 0.75) of it
    seen.update(np.array([-2.0, 7.0]))
    # m = 0.75 (0.25 x_1) + 0.25 x_2 over 1 - 0.75^2 = 0.4375: (3 x_1 + 4 x_2)/7.
    np.testing.assert_allclose(seen.range(), ((3 * -1 + 4 * -2) / 7, (3 * 3 + 4 * 7) / 7))
    seen.update(np.array([0.0, 1.0]))
    weights = np.array([0.75**2, 0.75, 1]) / (0.75**2 + 0.75 + 1)
    np.testing.assert_allclose(seen.range(), (weights @ [-1, -2, 0], weights @ [3, 7, 1]))


def test_moving_average_of_a_constant_is_the_constant():
    seen = MovingAverage()
    for _ in range(5):
        seen.update(np.array([0.25, 4.0], np.float32))
        np.testing.assert_allclose(seen.range(), (0.25, 4.0), rtol=1e-12)


def test_histogram_counts_as_numpy_does():
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=(4, 50)).astype(np.float32) for _ in range(6)]
    seen = fed(Histogram(), samples)
    counts = np.histogram(np.ravel(samples).astype(np.float64), seen.bins, (-seen.limit, seen.limit))[0]
    assert seen.counts.sum() == counts.sum() == 1200 and seen.zeros == 0
    assert seen.limit >= np.abs(samples).max()
    # A value on the border of two bins may be in the one or the other: that of the largest value of a sample.
    assert np.abs(np.cumsum(seen.counts - counts)).max() <= 1
    assert np.abs(seen.counts - counts).sum() <= 2 * len(samples)


def test_histogram_doubles_its_interval():
    rng = np.random.default_rng(1)
    samples = [rng.uniform(-1, 1, 500), rng.uniform(-3, 1, 500), rng.uniform(-1, 50, 500), rng.uniform(-1, 1, 500)]
    samples[0][0] = 1.0
    seen = Histogram()
    limits = []
    for sample in samples:
        fed(seen, [sample])
        limits.append(seen.limit)
    assert limits == [1.0, 4.0, 64.0, 64.0]
    x = np.concatenate(samples).astype(np.float32).astype(np.float64)
    counts = np.histogram(x, seen.bins, (-64, 64))[0]
    assert seen.counts.sum() == 2000
    # 1.0, the border of the first interval, was counted below the border between two bins.
    assert np.abs(seen.counts - counts).sum() in (0, 2)
    np.testing.assert_allclose(seen.centers(), -64 + 128 / 8192 * (np.arange(8192) + 0.5))
    assert (seen.low, seen.high) == (x.min(), x.max())


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
@pytest.mark.parametrize("one_sided", [False, True])
def test_percentile_within_one_bin(percentile, one_sided):
    # So many values that next to these percentiles several fall into a bin.
    x = np.random.default_rng(2).normal(size=(40, 50_000)).astype(np.float32)
    x = np.abs(x) if one_sided else x
    seen = fed(Percentile(percentile), x)
    expected = np.percentile(x, [100 - percentile, percentile])
    np.testing.assert_allclose(seen.range(), expected, rtol=0, atol=width(seen))


@pytest.mark.parametrize("sign", [1, -1])
def test_percentile_between_two_values(sign):
    # Exactly one value in a thousand is an outlier: NumPy's percentile stays with the 999 others, on either side.
    x = np.linspace(-1, 1, 1000)
    x[499] = sign * 100
    seen = fed(Percentile(99.9), [x])
    expected = np.percentile(x, [0.1, 99.9])
    assert np.abs(expected).max() < 1.1  # a thousandth of the way to the outlier
    np.testing.assert_allclose(seen.range(), expected, rtol=0, atol=0.2)


def test_percentile_counts_zeros():
    # Half of the values are zeros of a ReLU: the 90th percentile of all is the 80th of the others.
    x = np.maximum(np.random.default_rng(3).normal(size=(20, 10_000)), 0).astype(np.float32)
    seen = fed(Percentile(90.0), x)
    np.testing.assert_allclose(seen.range(), np.percentile(x, [10, 90]), rtol=0, atol=width(seen))


@pytest.mark.parametrize("zeros", [0, 3])
def test_percentile_when_later_samples_are_larger(zeros):
    rng = np.random.default_rng(4)
    samples = [np.zeros(20_000)] * zeros + [rng.normal(size=20_000) * scale for scale in (0.01, 0.1, 1, 7, 30, 2)]
    x = np.concatenate(samples).astype(np.float32)
    seen = fed(Percentile(99.0), samples)
    assert seen.limit > 64 * 0.04  # it did double, six times and more
    np.testing.assert_allclose(seen.range(), np.percentile(x, [1, 99]), rtol=0, atol=width(seen))


def test_percentile_of_hundred_is_minmax():
    x = np.random.default_rng(5).normal(size=(3, 100)).astype(np.float32)
    seen = fed(Percentile(100.0), x)
    low, high = seen.range()
    assert high == x.max() and 0 <= low - x.min() <= width(seen)


def test_percentile_leaves_no_value_out_of_its_sample():
    # Large tensors are thinned out, but no channel may be: here only one of 16 is far from 0.
    x = np.random.default_rng(6).normal(size=(1, 256, 256, 16)).astype(np.float32)
    x[..., 5] *= 20
    seen = fed(Percentile(99.0), [x])
    low, high = np.percentile(x, [1, 99])
    np.testing.assert_allclose(seen.range(), (low, high), rtol=0.05)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("data", ["normal", "one-sided", "outliers", "skewed"])
def test_mse_range_against_all_ranges(bits, data):
    rng = np.random.default_rng(7)
    x = rng.normal(size=20_000)
    if data == "one-sided":
        x = np.maximum(x, 0)
    if data == "outliers":
        x[:4] = [30, -30, 25, 28]
    if data == "skewed":
        x = np.where(x > 0, 5 * x, x)
    x = x.astype(np.float32)
    seen = fed(MeanSquaredError(bits), x.reshape(10, -1))
    low, high = seen.range()
    assert x.min() <= low <= 0 <= high <= x.max()
    lows = x.min() * np.linspace(1, 0.1, 50) if x.min() < 0 else [0.0]
    best = min(true_error(x, l, h, bits) for l in lows for h in x.max() * np.linspace(1, 0.1, 50))  # noqa: E741
    assert true_error(x, low, high, bits) <= 1.05 * best
    assert best <= true_error(x, min(x.min(), 0), x.max(), bits)


def test_mse_range_is_the_one_its_docstring_says():
    x = np.abs(np.random.default_rng(8).standard_t(3, 20_000)).astype(np.float32)
    seen = fed(MeanSquaredError(4), x.reshape(10, -1))
    highs = x.max() * np.linspace(0.1, 1, 500)
    errors = [true_error(x, 0.0, h, 4) for h in highs]
    low, high = seen.range()
    assert low == 0.0
    # Its own grid has steps of a hundredth of the maximum.
    assert abs(high - highs[np.argmin(errors)]) <= 0.01 * x.max()


def test_mse_keeps_the_range_of_uniform_values():
    x = np.random.default_rng(9).uniform(-1, 1, (10, 5000)).astype(np.float32)
    np.testing.assert_allclose(fed(MeanSquaredError(8), x).range(), (-1, 1), atol=0.011)


@pytest.mark.parametrize("seed", range(3))
def test_entropy_clips_outliers(seed):
    x = normal_with_outliers(np.random.default_rng(seed))
    assert (x.min(), x.max()) == (-40, 40)
    low, high = fed(Entropy(8), x.reshape(20, -1)).range()
    # All of the normal values but their last tail, and no more than a bit.
    assert 3 < high < 7 and -7 < low < -3


@pytest.mark.parametrize("limits", [(-1, 1), (0, 1), (-0.2, 3), (2, 3)])
def test_entropy_keeps_uniform_values(limits):
    x = np.random.default_rng(10).uniform(*limits, (20, 10_000)).astype(np.float32)
    np.testing.assert_allclose(fed(Entropy(8), x).range(), limits, atol=0.02 * (limits[1] - limits[0]))


def test_entropy_of_more_levels_than_bins_is_minmax():
    x = normal_with_outliers(np.random.default_rng(11)).reshape(20, -1)
    assert fed(Entropy(16), x).range() == fed(MinMax(), x).range()


@pytest.mark.parametrize("name", CALIBRATORS)
def test_all_zero_tensors(name):
    seen = fed(calibrator_of(name)(), np.zeros((3, 4, 4)))
    assert seen.range() == (0.0, 0.0)


@pytest.mark.parametrize("name", CALIBRATORS)
@pytest.mark.parametrize("value", [3.0, -3.0, 1e-6])
def test_constant_tensors(name, value):
    low, high = fed(calibrator_of(name)(), np.full((3, 10), value)).range()
    # With 0, as every range has it in the end: from 0 to the constant, or a hundredth part short of it (mse).
    np.testing.assert_allclose(sorted((min(low, 0.0), max(high, 0.0)), key=abs), (0.0, value), rtol=1e-2)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_zeros_first_then_values(name):
    x = np.random.default_rng(12).uniform(-1, 1, (10, 1000)).astype(np.float32)
    low, high = fed(calibrator_of(name)(), [np.zeros(1000), np.zeros(1000), *x]).range()
    if name == "moving_average":  # the zeros weigh least of 12, by 0.99^t
        share = 1 - sum(0.99**t for t in (11, 10)) / sum(0.99**t for t in range(12))
        np.testing.assert_allclose((low, high), (-share, share), rtol=0.01)
    else:
        np.testing.assert_allclose((low, high), (-1, 1), atol=0.02)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_ranges_lie_within_the_values(name):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = (rng.normal(size=(5, 2000)) * rng.uniform(0.01, 100) + rng.normal()).astype(np.float32)
        low, high = fed(calibrator_of(name)(), x).range()
        assert x.min() <= low < high <= x.max()


def test_calibrators_by_name():
    assert set(CALIBRATORS) == {"minmax", "moving_average", "percentile", "mse", "entropy"}
    made = {name: calibrator_of(name, percentile=99.0, bits=4)() for name in CALIBRATORS}
    assert [type(made[n]) for n in CALIBRATORS] == [MinMax, MovingAverage, Percentile, MeanSquaredError, Entropy]
    assert made["percentile"].percentile == 99.0 and made["mse"].levels == 15 and made["entropy"].levels == 16
    make = calibrator_of("mse")
    assert make() is not make()
