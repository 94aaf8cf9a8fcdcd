"""Which weights share one value, and what value. NumPy only.

Groups are numbers from 0 on, one for each weight. Group 0 is zero: its weights are zero and stay so.
"""

import math
from collections.abc import Sequence

import numpy as np

INITS = ("kmeans++", "linear", "density", "quantile")


def initial(values: np.ndarray, count: int, init: str, seed: int = 0) -> np.ndarray:
    """`count` first centroids for `kmeans`, in order (Sec. 3.2, arXiv:1510.00149).

    - `kmeans++`: each next one a value drawn with a chance that grows as its squared distance to those there are.
    - `linear`: from the least to the largest value in equal steps.
    - `density`: where the distribution function of the values crosses 0, 1/(count - 1), ..., 1.
    - `quantile`: the same at 1/(2 count), 3/(2 count), ...: the middles of `count` equally full shares.

    Args:
        values: 1-D.
    """
    if init == "linear":
        return np.linspace(values.min(), values.max(), count)
    if init == "density":
        return np.quantile(values, np.linspace(0, 1, count))
    if init == "quantile":
        return np.quantile(values, (np.arange(count) + 0.5) / count)
    return np.sort(_kmeans_plus_plus(values[:, None], count, np.random.default_rng(seed))[:, 0])


def _kmeans_plus_plus(vectors: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """k-means++: `count` rows of (n, length), the first by even chance."""
    chosen = [vectors[random.integers(len(vectors))]]
    distance = np.square(vectors - chosen[0]).sum(1)
    while len(chosen) < count:
        total = np.cumsum(distance)
        # Where all rows have been chosen, any will do.
        place = np.searchsorted(total, random.random() * total[-1], side="right") if total[-1] else 0
        chosen.append(vectors[min(place, len(vectors) - 1)])
        distance = np.minimum(distance, np.square(vectors - chosen[-1]).sum(1))
    return np.array(chosen)


def kmeans(
    values: np.ndarray, count: int, init: str = "kmeans++", seed: int = 0, price: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm on numbers, to the end: each value goes to the nearest centroid, each centroid to their mean.

    The values are sorted once; a round then costs a search and a difference of running sums for each centroid. A
    centroid that is left without values goes to the value that is farthest from its own.

    Args:
        init: see `initial`. Of "kmeans++" the best of four draws is taken.
        price: of a bit. Rounds with (v - c_k)^2 + price * -log2 p_k in place of the distance follow, p_k the share of
            the values at c_k (entropy-constrained quantization, Algorithm 1, arXiv:1612.01543). Centroids may go.

    Returns:
        The centroids in order, at most `count`, float64, and the number of the one that each value went to, shaped like
        `values`.
    """
    ordered = np.sort(values.ravel().astype(np.float64))
    distinct = np.unique(ordered)
    if len(distinct) <= count:
        centroids = distinct
    else:
        sample = ordered[:: max(len(ordered) >> 16, 1)]  # enough to draw from
        starts = range(seed, seed + 4) if init == "kmeans++" else [seed]
        found = [_settled(ordered, initial(sample, count, init, start)) for start in starts]
        _, centroids = min(found, key=lambda pair: pair[0])
    borders = _middles(centroids)
    if price:
        centroids, borders = _priced(ordered, centroids, price)
    return centroids, np.searchsorted(borders, values.astype(np.float64))


def _middles(centroids: np.ndarray) -> np.ndarray:
    return (centroids[1:] + centroids[:-1]) / 2


def _cuts(ordered: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Where the share of each centroid begins in the sorted values, and their number."""
    return np.concatenate([[0], np.searchsorted(ordered, borders, side="right"), [len(ordered)]])


def _settled(ordered: np.ndarray, centroids: np.ndarray) -> tuple[float, np.ndarray]:
    """Lloyd's rounds until no value changes its centroid: the squared error, and the centroids."""
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    squares = np.square(ordered).sum()
    before: np.ndarray | None = None
    while True:
        cuts = _cuts(ordered, _middles(centroids))
        counts = np.diff(cuts)
        if before is not None and np.array_equal(cuts, before):
            if counts.all():
                return squares - (counts * np.square(centroids)).sum(), centroids
            own = np.repeat(centroids, counts)
            centroids[np.argmin(counts)] = ordered[np.argmax(np.abs(ordered - own))]
            centroids.sort()
        else:
            centroids = np.where(counts > 0, np.diff(sums[cuts]) / np.maximum(counts, 1), centroids)
        before = cuts


def _priced(ordered: np.ndarray, centroids: np.ndarray, price: float) -> tuple[np.ndarray, np.ndarray]:
    """Rounds in which a value also pays for its centroid's bits: the centroids that are left, and their borders."""
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    cuts = _cuts(ordered, _middles(centroids))
    while True:
        cuts = np.unique(cuts)  # a centroid without values goes
        counts = np.diff(cuts)
        centroids = np.diff(sums[cuts]) / counts
        bits = -np.log2(counts / len(ordered))
        while True:
            borders = _middles(centroids) + price * np.diff(bits) / (2 * np.diff(centroids))
            behind = np.flatnonzero(np.diff(borders) <= 0)
            if not len(behind):
                break
            # Its neighbours are cheaper wherever it could be the best.
            centroids, bits = np.delete(centroids, behind[0] + 1), np.delete(bits, behind[0] + 1)
        now = _cuts(ordered, borders)
        if np.array_equal(now, cuts):
            return centroids, borders
        cuts = now


def kmeans_of_vectors(vectors: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm on the rows of (n, length), from a k-means++ draw, at most 100 rounds.

    Returns:
        Centroids (count, length), float64, and the number of the nearest one for each row.
    """
    vectors = vectors.astype(np.float64)
    centroids = _kmeans_plus_plus(vectors, count, np.random.default_rng(seed))
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
    flat = [np.concatenate([part.ravel() for part in parts]) for parts in books]
    energies = [float(np.square(values, dtype=np.float64).sum()) for values in flat] if energies is None else energies

    def grouped(price: float, every: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = []
        for values, energy in zip(every, energies, strict=True):
            groups = np.zeros(values.shape, np.int32)
            free = values != 0 if keep_zeros else np.ones(values.shape, bool)
            if free.any():
                groups[free] = 1 + kmeans(values[free], count - (not free.all()), init, seed, price * energy)[1]
            found.append(groups)
        return found

    def needed(found: list[np.ndarray]) -> float:
        sizes = [values.size for values in flat]
        return float(np.average([entropy(groups) for groups in found], weights=sizes))

    groups = grouped(0.0, flat)
    if bits is not None and needed(groups) > bits:
        thin = [np.sort(values)[:: max(len(values) >> 13, 1)] for values in flat]
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
    group = np.concatenate([one.ravel() for one in groups])
    values = np.concatenate([(part * sign).ravel() for part, sign in zip(parts, signs, strict=True)])
    alive = (group > 0) & ((values != 0) | (not keep_zeros))
    counts = np.bincount(group, alive)
    means = np.bincount(group, values.astype(np.float64) * alive) / np.maximum(counts, 1)
    new = np.where(alive, means[group], 0.0).astype(values.dtype)
    return [one * sign for one, sign in zip(_like(new, parts), signs, strict=True)]


def entropy(values: np.ndarray) -> float:
    """Bits that the best code needs for each value: -sum p log2 p over the distinct values."""
    counts = np.unique(values, return_counts=True)[1]
    shares = counts / counts.sum()
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
