"""Scales and integers against brute force, against steps by hand, and by what they do to the output."""

import itertools

import numpy as np
import pytest

from tfstruct.quantize.rounding import gptq, nearest, symmetric_scale


def top(bits):
    return 2 ** (bits - 1) - 1


def output_error(weights, rounded, hessian):
    """(w - sq) H (w - sq)^T, one value a channel."""
    error = weights - rounded
    return np.array([e @ hessian @ e for e in error])


def correlated(rng, inputs, rows=200):
    """mean(x x^T) over inputs of a layer that follow a few common causes, so that they are correlated."""
    causes = rng.normal(size=(rows, max(inputs // 3, 1))) @ rng.normal(size=(max(inputs // 3, 1), inputs))
    x = causes + 0.3 * rng.normal(size=(rows, inputs))
    return x.T @ x / rows


def hessians(rng, inputs):
    full = correlated(rng, inputs)
    return {"none": None, "diagonal": np.diag(full).copy(), "full": full}


@pytest.mark.parametrize("kind", ["none", "diagonal", "full"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_scale_is_the_best_of_the_candidates(kind, bits):
    rng = np.random.default_rng(bits)
    q = top(bits)
    for _ in range(10):
        weights = rng.normal(size=(3, 5))
        hessian = hessians(rng, 5)[kind]
        matrix = np.eye(5) if hessian is None else np.diag(hessian) if hessian.ndim == 1 else hessian
        got = symmetric_scale(weights, hessian, bits, steps=40, least=0.4)
        for channel, scale in zip(weights, got, strict=True):
            factors = np.array([1.0, *np.linspace(0.4, q / (q - 0.499), 40)])
            candidates = factors * np.abs(channel).max() / q
            losses = []
            for s in candidates:
                error = np.array([min(max(round(w / s), -q), q) * s - w for w in channel])
                losses.append(error @ matrix @ error)
            np.testing.assert_allclose(scale, candidates[np.argmin(losses)], rtol=1e-12)


@pytest.mark.parametrize("diagonal", [False, True])
def test_scale_finds_the_best_integers_of_all(diagonal):
    # With H diagonal and q given, (s q - w) H (s q - w)^T is least at s = (q H w)/(q H q); all 3^4 q can be tried.
    rng = np.random.default_rng(0)
    for _ in range(20):
        weights = rng.normal(size=(1, 4))
        h = rng.uniform(0.5, 1.5, 4) if diagonal else np.ones(4)
        best = np.inf
        for q in itertools.product((-1, 0, 1), repeat=4):
            if any(q):
                scale = (q * h) @ weights[0] / ((q * h) @ np.array(q))
                best = min(best, float(h @ np.square(scale * np.array(q) - weights[0])))
        scale = symmetric_scale(weights, h if diagonal else None, bits=2, steps=4000)
        error = scale[:, None] * nearest(weights, scale, 2) - weights
        found = float(h @ np.square(error[0]))
        # 4000 steps of a parabola: off by at most half a step in s, squared.
        assert best <= found + 1e-12 and found - best < 1e-5


def test_scale_by_hand():
    # One bit and sign: q = (1, 1) at s = mean of 1 and 0.8, the 0.1 rounds to 0; s = 0.9.
    scale = symmetric_scale(np.array([[1.0, 0.8, 0.1]]), None, bits=2, steps=2000)
    np.testing.assert_allclose(scale, [0.9], atol=2e-3)
    # Where only the second input counts, s fits it: 0.8.
    scale = symmetric_scale(np.array([[1.0, 0.8, 0.1]]), np.array([0.0, 1.0, 0.0]), bits=2, steps=2000)
    np.testing.assert_allclose(scale, [0.8], atol=2e-3)


def test_a_diagonal_says_the_same_as_its_matrix():
    rng = np.random.default_rng(1)
    weights, diagonal = rng.normal(size=(6, 9)), rng.uniform(0.1, 3, 9)
    np.testing.assert_array_equal(symmetric_scale(weights, diagonal, 4), symmetric_scale(weights, np.diag(diagonal), 4))
    np.testing.assert_array_equal(symmetric_scale(weights, np.ones(9), 4), symmetric_scale(weights, None, 4))


@pytest.mark.parametrize("kind", ["none", "diagonal", "full"])
def test_an_all_zero_channel_leaves_the_others_alone(kind):
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(3, 6)).astype(np.float32)
    weights[1] = 0
    hessian = hessians(rng, 6)[kind]
    scale = symmetric_scale(weights, hessian, 4)
    assert scale.shape == (3,) and (scale > 0).all()
    assert not nearest(weights, scale, 4)[1].any()
    np.testing.assert_array_equal(scale[[0, 2]], symmetric_scale(weights[[0, 2]], hessian, 4))


@pytest.mark.parametrize("kind", ["none", "diagonal", "full"])
def test_an_all_zero_channel_has_scale_one(kind):
    rng = np.random.default_rng(2)
    weights = np.stack([rng.normal(size=6), np.zeros(6)])
    assert symmetric_scale(weights, hessians(rng, 6)[kind], 4)[1] == 1.0


def test_gptq_leaves_an_all_zero_channel_zero():
    rng = np.random.default_rng(3)
    weights = np.stack([rng.normal(size=5), np.zeros(5)])
    hessian = correlated(rng, 5)
    scale = symmetric_scale(weights, hessian, 4)
    out = gptq(weights, hessian, scale, 4)
    assert not out[1].any() and np.abs(out[0]).max() == 7


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_largest_integer_is_always_q(bits):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        outputs, inputs = rng.integers(1, 6), rng.integers(1, 12)
        weights = rng.normal(size=(outputs, inputs))
        if seed % 3 == 1:
            weights = rng.standard_t(1.5, size=weights.shape)  # heavy tails, where clipping pays
        if seed % 3 == 2:
            weights = weights.astype(np.float32) * np.float32(1e-6)
        for hessian in hessians(rng, inputs).values():
            scale = symmetric_scale(weights, hessian, bits)
            integers = [nearest(weights, scale, bits)]
            if hessian is not None and hessian.ndim == 2:
                integers.append(gptq(weights, hessian, scale, bits))
            for q in integers:
                assert q.shape == weights.shape and (q == np.round(q)).all()
                assert (np.abs(q).max(axis=1) == top(bits)).all(), seed


def test_nearest_by_hand():
    weights = np.array([[0.26, -0.24, 0.9, -2.0], [1.0, 3.4, -3.6, 10.0]])
    # Two values: 0.26/0.5 = 0.52 -> 1, -0.48 -> 0, 1.8 -> 1 (clipped), -4 -> -1 (clipped).
    np.testing.assert_array_equal(nearest(weights, np.array([0.5, 1.0]), 2), [[1, 0, 1, -1], [1, 1, -1, 1]])
    np.testing.assert_array_equal(nearest(weights, np.array([0.5, 1.0]), 4), [[1, 0, 2, -4], [1, 3, -4, 7]])
    # Half to even, as NumPy and the kernels' reference do; -128 is never used.
    np.testing.assert_array_equal(nearest(np.array([[0.5, 1.5, -2.5, -500]]), np.ones(1), 8), [[0, 2, -2, -127]])


# d = w_0 - q_0 goes to the other input as d H_01/H_11: -U_01/U_00 of the inverse of a 2 x 2 matrix.
@pytest.mark.parametrize("damping", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("swapped", [False, True])
def test_gptq_by_hand(damping, swapped):
    # H = [[2, 1], [1, 1]]: input 0 goes first. q_0 = round(0.6) = 1, d = -0.4, w_1 = 0.8 - 0.4/(1 + damping 1.5).
    # Without damping w_1 = 0.4 -> 0, where nearest takes 1; with damping 0.5, w_1 = 0.571 -> 1.
    weights, hessian = np.array([[0.6, 0.8]]), np.array([[2.0, 1.0], [1.0, 1.0]])
    second = 0.8 - 0.4 * 1 / (1 + damping * 1.5)
    expected = [1, round(second)]
    if swapped:  # the input with the larger H_ii still goes first
        weights, hessian, expected = weights[:, ::-1], hessian[::-1, ::-1], expected[::-1]
    got = gptq(weights, hessian, np.ones(1), bits=2, damping=damping)
    np.testing.assert_array_equal(got, [expected])
    assert sum(expected) == (2 if damping == 0.5 else 1)


def test_gptq_by_hand_has_the_smaller_error():
    # (0.4, -0.8) H (.)^T = 0.32 - 0.64 + 0.64 = 0.32; (0.4, 0.2) H (.)^T = 0.32 + 0.16 + 0.04 = 0.52.
    weights, hessian = np.array([[0.6, 0.8]]), np.array([[2.0, 1.0], [1.0, 1.0]])
    second_order = gptq(weights, hessian, np.ones(1), bits=2, damping=0.0)
    np.testing.assert_allclose(output_error(weights, second_order, hessian), [0.32])
    np.testing.assert_allclose(output_error(weights, nearest(weights, np.ones(1), 2), hessian), [0.52])


def test_gptq_follows_its_formula():
    rng = np.random.default_rng(4)
    weights, hessian = rng.normal(size=(4, 7)), correlated(rng, 7)
    scale, size = symmetric_scale(weights, hessian, 4), 7
    order = sorted(range(size), key=lambda i: -hessian[i, i])
    damped = hessian + 0.01 * np.mean(np.diag(hessian)) * np.eye(size)
    inverse = np.linalg.inv(damped)[np.ix_(order, order)]
    upper = np.linalg.cholesky(inverse).T
    np.testing.assert_allclose(upper.T @ upper, inverse)
    for channel in range(4):
        w, q = weights[channel, order].copy(), np.zeros(size)
        for i in range(size):
            q[i] = min(max(round(w[i] / scale[channel]), -7), 7)
            for j in range(i + 1, size):
                w[j] -= (w[i] - scale[channel] * q[i]) * upper[i, j] / upper[i, i]
        expected = np.zeros(size)
        expected[order] = q
        if np.abs(expected).max() < 7:
            expected = nearest(weights[[channel]], scale[[channel]], 4)[0]
        np.testing.assert_array_equal(gptq(weights, hessian, scale, 4)[channel], expected)


def test_gptq_that_would_lose_the_largest_integer_rounds_to_nearest():
    # q_0 = 0, d = 0.3, w_1 = 0.6 + 0.3 (-0.9)/1 = 0.33 -> 0: no integer would be Q = 1.
    weights, hessian = np.array([[0.3, 0.6]]), np.array([[2.0, -0.9], [-0.9, 1.0]])
    np.testing.assert_array_equal(gptq(weights, hessian, np.ones(1), bits=2, damping=0.0), [[0, 1]])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gptq_of_independent_inputs_is_nearest(bits):
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(8, 16))
    for hessian in (np.eye(16), np.diag(rng.uniform(0.1, 5, 16))):
        scale = symmetric_scale(weights, hessian, bits)
        np.testing.assert_array_equal(gptq(weights, hessian, scale, bits), nearest(weights, scale, bits))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gptq_has_the_smaller_output_error(bits):
    ratios = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        weights, hessian = rng.normal(size=(4, 24)), correlated(rng, 24)
        scale = symmetric_scale(weights, hessian, bits)
        plain = output_error(weights, nearest(weights, scale, bits) * scale[:, None], hessian).sum()
        second = output_error(weights, gptq(weights, hessian, scale, bits) * scale[:, None], hessian).sum()
        ratios.append(second / plain)
    assert np.mean(ratios) <= 1.0
    # With inputs this correlated it is far from a draw.
    assert np.median(ratios) < 0.6


def test_a_dead_input_has_no_say_in_gptq():
    rng = np.random.default_rng(6)
    live = [0, 1, 3, 4, 5]
    hessian = np.zeros((6, 6))
    hessian[np.ix_(live, live)] = correlated(rng, 5)
    weights = rng.normal(size=(3, 6))
    weights[:, 2] = 0.1
    scale = symmetric_scale(weights, hessian, 4)
    got = gptq(weights, hessian, scale, 4)
    # The damping is a share of the mean of all H_ii, the dead one among them.
    alone = gptq(weights[:, live], hessian[np.ix_(live, live)], scale, 4, damping=0.01 * 5 / 6)
    np.testing.assert_array_equal(got[:, live], alone)
    np.testing.assert_array_equal(got[:, 2], nearest(weights, scale, 4)[:, 2])


def test_gptq_of_inputs_that_are_all_dead_is_nearest():
    weights = np.random.default_rng(7).normal(size=(3, 4))
    scale = symmetric_scale(weights, np.zeros((4, 4)), 4)
    got = gptq(weights, np.zeros((4, 4)), scale, 4)
    np.testing.assert_array_equal(got, nearest(weights, scale, 4))


def test_the_arguments_are_left_as_they_are():
    rng = np.random.default_rng(8)
    weights, hessian = rng.normal(size=(2, 4)), correlated(rng, 4)
    before = weights.copy(), hessian.copy()
    scale = symmetric_scale(weights, hessian, 4)
    kept = scale.copy()
    gptq(weights, hessian, scale, 4)
    nearest(weights, scale, 4)
    for now, then in zip((weights, hessian, scale), (*before, kept), strict=True):
        np.testing.assert_array_equal(now, then)


def test_gptq_by_blocks_is_gptq():
    rng = np.random.default_rng(6)
    size = 300
    weights, hessian = rng.normal(size=(5, size)), correlated(rng, size, rows=900)
    scale = symmetric_scale(weights, hessian, 4, steps=10)
    order = np.argsort(-np.diag(hessian), kind="stable")
    damped = hessian + 0.01 * np.mean(np.diag(hessian)) * np.eye(size)
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    work, expected = weights[:, order].copy(), np.empty_like(weights)
    for i in range(size):
        expected[:, order[i]] = np.clip(np.round(work[:, i] / scale), -7, 7)
        rest = (work[:, i] - scale * expected[:, order[i]]) / upper[i, i]
        work[:, i + 1 :] -= np.outer(rest, upper[i, i + 1 :])
    found = gptq(weights, hessian, scale, 4)
    assert np.mean(found == expected) > 0.99  # a half may fall to either side
    errors = [output_error(weights, q * scale[:, None], hessian).sum() for q in (found, expected)]
    np.testing.assert_allclose(*errors, rtol=0.01)


def test_scale_of_many_inputs_is_nearly_the_best():
    rng = np.random.default_rng(7)
    weights, hessian = rng.normal(size=(6, 1100)), correlated(rng, 1100, rows=400)
    fast = symmetric_scale(weights, hessian, 4)
    losses = []
    for scale in (fast, *(np.abs(weights).max(axis=1) / 7 * f for f in np.linspace(0.3, 7 / 6.501, 60))):
        losses.append(output_error(weights, nearest(weights, scale, 4) * scale[:, None], hessian))
    best = np.min(losses, axis=0)
    assert np.mean(losses[0] / best) < 1.15 and np.all(losses[0] < np.max(losses, axis=0))
