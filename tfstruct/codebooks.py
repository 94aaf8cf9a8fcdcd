"""Which weights share one value, and what value. NumPy only.

Groups are numbers from 0 on, one for each weight. Group 0 is zero: its weights are zero and stay so.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from tfstruct.kmeans import INITS, initial, kmeans, kmeans_plus_plus, line_of, pieces, sample_of, searched

__all__ = ["INITS", "initial", "kmeans"]  # beside what follows


def kmeans_of_vectors(vectors: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm on the rows of (n, length), from a k-means++ draw, at most 100 rounds.

    Returns:
        Centroids (count, length), float64, and the number of the nearest one for each row.
    """
    vectors = vectors.astype(np.float64)
    centroids = kmeans_plus_plus(vectors, count, np.random.default_rng(seed))
    nearest = np.zeros(0, int)  # unlike any round's
    for _ in range(100):
        before, (nearest, distance) = nearest, _nearest(vectors, centroids)
        counts = np.bincount(nearest, minlength=count)
        if np.array_equal(nearest, before) and counts.all():
            break
        for place in np.flatnonzero(counts == 0):
            far = np.argmax(distance)
            nearest[far], distance[far] = place, 0.0
        counts = np.bincount(nearest, minlength=count)
        for i in range(vectors.shape[1]):
            total = np.bincount(nearest, vectors[:, i], minlength=count)
            centroids[:, i] = np.where(counts > 0, total / np.maximum(counts, 1), centroids[:, i])
    return centroids, nearest


def _nearest(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nearest, distance = np.empty(len(vectors), int), np.empty(len(vectors))
    for start in range(0, len(vectors), 1 << 14):
        part = vectors[start : start + (1 << 14)]
        away = np.square(part).sum(1)[:, None] - 2 * part @ centroids.T + np.square(centroids).sum(1)
        nearest[start : start + len(part)] = away.argmin(1)
        distance[start : start + len(part)] = away.min(1)
    return nearest, distance


def by_value(
    books: Sequence[Sequence[np.ndarray]],
    count: int,
    init: str = "kmeans++",
    keep_zeros: bool = True,
    seed: int = 0,
    bits: float | None = None,
    energies: Sequence[float] | None = None,
) -> list[list[np.ndarray]]:
    """Groups of like values, one codebook of `count` values for each list of arrays.

    Args:
        books: lists of arrays of any shape.
        keep_zeros: zeros are group 0, which is one of the `count` values.
        bits: what the best codes of all codebooks may need on average for a value. Then k-means has a price a bit, the
            least one that meets it, in units of the squared error over its `energies`: codebooks with many values get
            fewer bits each, as an error that many share does as much harm as a larger one of few.
        energies: for each codebook; the sum of its squares by default.
    """
    flat = [
        parts[0].ravel() if len(parts) == 1 else np.concatenate([part.ravel() for part in parts]) for parts in books
    ]
    if energies is None:
        energies = [0.0 if bits is None else float(np.square(values, dtype=np.float64).sum()) for values in flat]

    def grouped(price: float, every: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = []
        for values, energy in zip(every, energies, strict=True):
            alive = values != 0 if keep_zeros else np.ones(1, bool)
            held = not alive.all()
            line = line_of(values, count, zeros=not held)
            groups = np.zeros(values.shape, np.int32)
            if line.points.size:
                groups = searched(line.fitted(count - held, init, seed, price * energy)[1], values, first=1)
            found.append(groups * alive if held else groups)
        return found

    def needed(found: list[np.ndarray]) -> float:
        sizes = [values.size for values in flat]
        return float(np.average([entropy_of_counts(np.bincount(groups)) for groups in found], weights=sizes))

    groups = grouped(0.0, flat)
    if bits is not None and needed(groups) > bits:
        samples = [np.sort(sample_of(values)) for values in flat]
        thin = [values[:: max(len(values) >> 13, 1)] for values in samples]
        low, high = 1e-14, 1.0
        for _ in range(30):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if needed(grouped(middle, thin)) > bits else (low, middle)
        while needed(groups := grouped(high, flat)) > bits:  # a sample says it nearly
            high *= 1.02
    return [_like(found, parts) for found, parts in zip(groups, books, strict=True)]


def by_hash(
    parts: Sequence[np.ndarray], count: int, keep_zeros: bool = True, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Groups and signs that depend on a weight's place alone: w_i = s(i) c_h(i) (Eq. 3 and 7, arXiv:1504.04788).

    h and s are bits of SplitMix64 at i + seed, so nothing but the seed has to be known of them.

    Returns:
        Groups, and signs -1 or 1, shaped like `parts`.
    """
    values = np.concatenate([part.ravel() for part in parts])
    random = _splitmix64(np.arange(values.size, dtype=np.uint64) + (np.uint64(seed) << np.uint64(32)))
    zero = keep_zeros and not values.all()
    groups = 1 + ((random >> np.uint64(1)) % np.uint64(count - zero)).astype(np.int32)
    signs = np.where(random & np.uint64(1), 1, -1).astype(np.int8)
    if keep_zeros:
        groups[values == 0] = 0
    return _like(groups, parts), _like(signs, parts)


def _splitmix64(numbers: np.ndarray) -> np.ndarray:
    """Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", Fig. 15."""
    z = numbers * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def by_product(
    parts: Sequence[np.ndarray],
    count: int,
    block: int,
    by_place: bool = False,
    keep_zeros: bool = True,
    seed: int = 0,
) -> list[np.ndarray]:
    """Groups of product quantization: rows are cut into runs of `block`, and each run takes one of `count` codewords.

    Entry j of all runs with one codeword is one group.

    Args:
        parts: matrices whose rows are the vectors.
        by_place: one codebook for each place in the row (Jegou et al. 2011, "Product quantization for nearest
            neighbor search", Sec. II-B); otherwise one for all (arXiv:1907.05686).
    """
    runs = [part.reshape(len(part), -1, block) for part in parts]
    books = [[run[:, i] for run in runs] for i in range(runs[0].shape[1])] if by_place else [runs]
    found = []
    for number, book in enumerate(books):
        codes = kmeans_of_vectors(np.concatenate([run.reshape(-1, block) for run in book]), count, seed)[1]
        groups = 1 + (number * count + codes)[:, None] * block + np.arange(block)
        found.append(_like(groups.ravel().astype(np.int32), book))
    joined = [np.stack(places, 1) for places in zip(*found, strict=True)] if by_place else found[0]
    shaped = [group.reshape(part.shape) for group, part in zip(joined, parts, strict=True)]
    return [np.where(part == 0, 0, group) if keep_zeros else group for part, group in zip(parts, shaped, strict=True)]


def _like(flat: np.ndarray, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    ends = np.cumsum([part.size for part in parts])[:-1]
    return [one.reshape(part.shape) for one, part in zip(np.split(flat, ends), parts, strict=True)]


def united(
    parts: Sequence[np.ndarray],
    groups: Sequence[np.ndarray],
    signs: Sequence[np.ndarray | int],
    keep_zeros: bool = True,
) -> list[np.ndarray]:
    """Each weight at the mean of its group: w_i = s_i mean(s_j w_j), j in the group of i; group 0 at zero.

    Args:
        signs: -1 or 1.
        keep_zeros: weights at zero stay there and do not count.
    """
    size = max(int(group.max()) for group in groups) + 1
    counts, totals = np.zeros(size, np.int64), np.zeros(size)
    every = list(zip(parts, groups, signs, strict=True))
    for part, group, sign in every:
        for _, members, values in _members(part, group, sign, keep_zeros):
            counts += np.bincount(members, minlength=size)
            totals += np.bincount(members, values.astype(np.float64), minlength=size)
    means = totals / np.maximum(counts, 1)
    means[0] = 0.0
    found = []
    for part, group, sign in every:
        new = np.empty(part.size, part.dtype)
        values = means.astype(part.dtype)
        for place, members, _ in _members(part, group, sign, keep_zeros):
            values.take(members, out=new[place], mode="clip")  # which takes no copy; none is beyond the last
        found.append(new.reshape(part.shape) * sign if np.ndim(sign) else new.reshape(part.shape))
    return found


def _members(part: np.ndarray, group: np.ndarray, sign: np.ndarray | int, keep_zeros: bool) -> Iterator[tuple]:
    """Piece by piece: its place, the groups of its weights (0 for those that do not count), and s_i w_i."""
    weights, numbers = part.ravel(), group.ravel()
    signs = np.broadcast_to(sign, part.shape).ravel() if np.ndim(sign) else None
    for place in pieces(weights.size):
        values = weights[place]
        members = numbers[place].astype(np.intp)  # once, for all that counts or takes by them
        if keep_zeros and not (alive := values != 0).all():
            members *= alive
        yield place, members, values if signs is None else values * signs[place]


def distance(new: np.ndarray, old: np.ndarray) -> float:
    """|new - old| / |old|; |new - old| where |old| is zero."""
    away, whole = 0.0, 0.0
    real = np.promote_types(old.dtype, np.float32)
    for place in pieces(old.size):
        before = old.ravel()[place].astype(real, copy=False)
        away += float(np.square(new.ravel()[place] - before).sum())
        whole += float(np.square(before).sum())
    return math.sqrt(away / (whole or 1.0))


def distinct(values: np.ndarray, most: int = 1 << 12) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in order, and how often each is there; not all are sorted if these are few."""
    flat = values.ravel()
    few = np.unique(sample_of(flat))
    if len(few) <= most and flat.size > few.size:
        places = searched(few, flat)
        if np.array_equal(np.append(few, few[-1:]).take(places), flat):
            return few, np.bincount(places, minlength=len(few))
    return np.unique(flat, return_counts=True)


def entropy(values: np.ndarray) -> float:
    """Bits that the best code needs for each value: -sum p log2 p over the distinct values."""
    return entropy_of_counts(distinct(values)[1])


def entropy_of_counts(counts: np.ndarray) -> float:
    """The same of how often each value is there."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def integer_limit(values: np.ndarray) -> float:
    """The magnitude that the largest integer stands for: max|v|, or up to 1 % more.

    It is the least one at which no v / limit * Q, Q = 127 or 7, is nearer than 0.001 to a half, where the rounding
    errors of a factor by channel would give a value other integers in other channels; if there is none, the best.
    """
    magnitudes = np.unique(np.abs(values.astype(np.float64)))
    limits = magnitudes[-1] * (1 + np.linspace(0, 0.01, 101))
    steps = magnitudes / limits[:, None] * np.array([127, 7])[:, None, None]
    margins = np.abs(steps - np.floor(steps) - 0.5).min((0, 2))
    return float(limits[np.argmax(np.minimum(margins, 1e-3))])
