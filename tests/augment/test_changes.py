"""What each change does, by values."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct import augment
from tfstruct.augment import Draws, Mix, movement, pictures, sounds, tokens
from tfstruct.augment.draws import changed

L = keras.layers


def draws(seed=0):
    return Draws(tf.constant([seed, 0], tf.int64))


def images(count=8, size=8, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, size, size, 3)).astype("float32")


def test_draws():
    one, other = draws(1), draws(1)
    a, b = one.uniform((1000,), 2, 3), one.uniform((1000,), 2, 3)
    assert a.numpy().min() >= 2 and a.numpy().max() < 3 and (a.numpy() != b.numpy()).any()
    np.testing.assert_array_equal(a, other.uniform((1000,), 2, 3))
    assert set(one.integers((500,), 3, 5).numpy().tolist()) == {3, 4, 5}
    assert one.integers((2,), 0, tf.constant([0, 0])).numpy().tolist() == [0, 0]


# Labels


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "either"])
@pytest.mark.parametrize("seed", [0, 1])
def test_labels_are_mixed_as_the_pixels_are(kind, seed):
    # Image i is i everywhere, so that the mean of a mixed image tells the shares of two labels.
    count = 6
    x = tf.ones((count, 10, 10, 1)) * tf.reshape(tf.range(count, dtype=tf.float32), (-1, 1, 1, 1))
    found, labels, weights = Mix(kind, count, alpha=1.0)(x, tf.range(count), None, draws(seed))
    assert weights is None and labels.shape == (count, count)
    np.testing.assert_allclose(tf.reduce_sum(labels, 1), 1, rtol=1e-6)
    assert int(tf.reduce_max(tf.math.count_nonzero(labels, axis=1))) == 2
    for i in range(count):
        np.testing.assert_allclose(np.mean(found[i]), labels[i].numpy() @ np.arange(count), rtol=1e-5)
        if kind == "cutmix":
            assert len(np.unique(found[i])) <= 2


def test_weighted_samples_are_mixed_as_their_losses_would_be():
    x = tf.constant(images(6))
    weights = tf.constant([0.0, 1.0, 2.0, 3.0, 0.5, 1.5])
    _, plain, _ = Mix("mixup", 6, alpha=1.0)(x, tf.range(6), None, draws(2))
    _, labels, mixed = Mix("mixup", 6, alpha=1.0)(x, tf.range(6), weights, draws(2))
    # A cross-entropy is linear in label times weight.
    np.testing.assert_allclose(labels * mixed[:, None], plain * weights[None, :], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(labels, 1), tf.cast(mixed > 0, tf.float32), rtol=1e-5)


def test_labels_of_several_outputs():
    labels = {"class": tf.reshape(tf.range(4), (4, 1)), "soft": tf.eye(4), "size": tf.range(4.0)[:, None]}
    x = tf.constant(images(4))
    _, found, _ = Mix("cutmix", 4)(x, labels, None, draws(1))
    np.testing.assert_allclose(found["class"], found["soft"])
    np.testing.assert_allclose(found["size"], found["soft"] @ np.arange(4.0)[:, None], rtol=1e-6)


# Images


def test_a_shift_by_whole_pixels_with_a_reflected_border():
    pipeline = augment.images("light", flip=None)
    (layer,) = pipeline.changes
    x = images(20, 16)
    found = changed(layer, tf.constant(x), draws(3)).numpy()
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "symmetric")
    crops = [padded[:, i : i + 16, j : j + 16] for i in range(3) for j in range(3)]
    fits = np.stack([np.abs(found - crop).max(axis=(1, 2, 3)) < 1e-3 for crop in crops])
    assert fits.any(0).all() and fits.any(1).sum() >= 6


def test_a_choice_of_operations():
    doubled, negated = (lambda x, d: 2 * x), (lambda x, d: -x)
    x = tf.ones((2, 3))
    found = {float(augment.Choice([doubled, negated], 2)(x, draws(i))[0, 0]) for i in range(20)}
    assert found == {4.0, -2.0, 1.0}
    noise = augment.Choice([lambda x, d: x + d.normal(x.shape), L.GaussianNoise(1.0)])
    np.testing.assert_array_equal(noise(x, draws(1)), noise(x, draws(1)))
    assert (noise(x, draws(1)).numpy() != noise(x, draws(2)).numpy()).any()


def test_operations_of_strong_stay_recognizable():
    strong = augment.images("strong", mix=None, flip=None)
    choice = next(c for c in strong.changes if isinstance(c, augment.Choice))
    ramp = tf.constant(np.tile(np.linspace(20, 235, 16, dtype="float32")[None, None, :, None], (8, 16, 1, 3)))
    for layer in choice.changes:
        found = changed(layer, ramp, draws(0)).numpy()
        together = np.corrcoef(found[:, 4:12].mean((0, 1, 3)), np.linspace(20, 235, 16))[0, 1]
        assert together > 0.5, getattr(layer, "name", layer)


def test_solarize():
    x = tf.constant(images(50))
    found = pictures._solarize((0, 255))(x, draws(0)).numpy()
    turned = found != x.numpy()
    np.testing.assert_allclose(found[turned], 255 - x.numpy()[turned], rtol=1e-6)
    least = [x.numpy()[i][turned[i]].min(initial=255) for i in range(50)]
    assert 203 < min(least) < 215 and max(least) > 240


# Time


def test_shift():
    x = tf.reshape(tf.range(1.0, 41.0), (2, 20))
    change = movement.shift(0.25)
    for seed in range(10):
        for row, own in zip(change(x, draws(seed)).numpy(), x.numpy(), strict=True):
            steps = int(np.argmax(row != 0)) if row[0] == 0 else -int(np.argmax(row[::-1] != 0))
            wanted = np.zeros(20)
            wanted[max(steps, 0) : 20 + min(steps, 0)] = own[max(-steps, 0) : 20 - max(steps, 0)]
            np.testing.assert_array_equal(row, wanted)
            assert abs(steps) <= 5
    filled = movement.shift(0.5, lambda x: tf.reduce_max(x, axis=1, keepdims=True))(x, draws(1)).numpy()
    assert (filled != 0).all()


def test_warp():
    x = tf.tile(tf.range(20.0)[None, :, None], (6, 1, 2))  # the value is the time
    found = movement.warp(0.3)(x, draws(0)).numpy()
    np.testing.assert_array_equal(found[..., 0], found[..., 1])
    np.testing.assert_allclose(found[:, [0, -1], 0], [[0, 19]] * 6, atol=1e-5)
    steps = np.diff(found[..., 0])
    assert (steps > 0).all() and steps.std() > 0.05
    np.testing.assert_allclose(movement.warp(0.0)(x, draws(0)), x, atol=1e-4)
    random = tf.random.normal((3, 20))
    warped = movement.warp(0.3)(random, draws(0)).numpy()
    assert (warped.max(1) <= random.numpy().max(1) + 1e-6).all()  # between neighbours


def test_noise_has_the_ratio_asked_for():
    x = 0.1 * tf.sin(tf.reshape(tf.range(40_000.0), (2, 20_000)) / 7)
    noise = sounds._noise(20.0, 20.0)(x, draws(0)) - x
    ratio = 10 * np.log10(np.mean(x.numpy() ** 2, 1) / np.mean(noise.numpy() ** 2, 1))
    np.testing.assert_allclose(ratio, 20, atol=0.2)


def test_bands_are_hidden():
    x = tf.random.normal((40, 30, 20, 1), seed=0)
    mean = tf.reduce_mean(x, axis=(1, 2, 3), keepdims=True).numpy()
    for axis, size in ((1, 30), (2, 20)):
        hidden = sounds._masks(axis, 1, 0.2)(x, draws(axis)).numpy() != x.numpy()
        bands = hidden.any(axis=(3 - axis, 3))
        np.testing.assert_array_equal(bands, hidden.all(axis=(3 - axis, 3)))  # the whole other axis
        assert bands.sum(1).max() == round(0.2 * size) and bands.sum(1).min() == 0
        assert (np.abs(np.diff(bands.astype(int), axis=1)).sum(1) <= 2).all()  # one piece
    masked = sounds._masks(1, 2, 0.5)(x, draws(5)).numpy()
    np.testing.assert_allclose(masked[masked != x.numpy()], np.broadcast_to(mean, x.shape)[masked != x.numpy()])


# Texts


def sentences(count=200, length=12, left=False):
    """Ids from 3 on, no two the same in a text, between 1 and 2; at least three paddings."""
    rng = np.random.default_rng(0)
    rows = np.zeros((count, length), "int64")
    for row in rows:
        words = rng.permutation(np.arange(3, 40))[: rng.integers(1, length - 4)]
        text = [1, *words, 2]
        if left:
            row[-len(text) :] = text
        else:
            row[: len(text)] = text
    return rows


@pytest.mark.parametrize("left", [False, True])
def test_drop(left):
    x = sentences(left=left)
    change = tokens._drop(0.3, (0, 1, 2), 0, None, right=not left)
    found = change(tf.constant(x), draws(0)).numpy()
    lost = 0
    for row, own in zip(found, x, strict=True):
        before, after = own[own != 0], row[row != 0]
        np.testing.assert_array_equal(row, np.pad(after, (12 - len(after), 0) if left else (0, 12 - len(after))))
        assert after[0] == 1 and after[-1] == 2 and len(after) >= 3
        at = [before.tolist().index(token) for token in after]
        assert at == sorted(at)  # what stays, in order
        lost += len(before) - len(after)
    assert lost / (x > 2).sum() == pytest.approx(0.3, abs=0.06)
    unknown = tokens._drop(0.3, (0, 1, 2), 0, 99, right=not left)(tf.constant(x), draws(0)).numpy()
    assert (unknown == 99).sum() == lost
    np.testing.assert_array_equal(unknown[unknown != 99], x[unknown != 99])


def test_swap():
    x = sentences()
    found = tokens._swap(0.4, (0, 1, 2))(tf.constant(x), draws(0)).numpy()
    moved = found != x
    np.testing.assert_array_equal(np.sort(found, 1), np.sort(x, 1))
    assert not moved[x <= 2].any()
    for row, own in zip(found, x, strict=True):
        for i in np.flatnonzero(row != own):
            assert own[i] in row[max(i - 1, 0) : i + 2]  # with a neighbour
    assert 0.25 < moved[x > 2].mean() < 0.45


def test_a_text_of_padding_alone():
    x = tf.zeros((2, 5), tf.int32)
    for change in (tokens._drop(0.9, (0,), 0, None, True), tokens._swap(0.9, (0,))):
        np.testing.assert_array_equal(change(x, draws(0)), x)
    one = tf.constant([[7, 0, 0]])
    np.testing.assert_array_equal(tokens._drop(1.0, (0,), 0, None, True)(one, draws(0)), one)
