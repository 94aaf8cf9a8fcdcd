"""Lloyd's algorithm on numbers, in one dimension, for a handful or for many millions of them. NumPy only."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

INITS = ("kmeans++", "linear", "density", "quantile")
_SAMPLE = 1 << 17  # of the values of a list that is more than twice as long, at least

_THIN = 1 << 11  # points on which the draws of k-means++ compete, at least


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
    return np.sort(kmeans_plus_plus(values[:, None], count, np.random.default_rng(seed))[:, 0])


def kmeans_plus_plus(
    vectors: np.ndarray, count: int, random: np.random.Generator, mass: np.ndarray | float = 1.0
) -> np.ndarray:
    """k-means++: `count` rows of (n, length), the first by even chance; row i counts as mass_i rows."""
    total = np.cumsum(np.broadcast_to(mass, len(vectors)))
    chosen = [vectors[np.searchsorted(total, random.random() * total[-1], side="right")]]
    distance = np.square(vectors - chosen[0]).sum(1)
    while len(chosen) < count:
        total = np.cumsum(distance * mass)
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
    centroid that is left without values goes to the value that is farthest from its own. In a long list, 2^17 drawn
    ones (2^12 a centroid, if that is more) stand for all but those that lie far out.

    Args:
        init: see `initial`. Of "kmeans++" the best of four draws is taken, on a summary of the values in some thousand.
        price: of a bit. Rounds with (v - c_k)^2 + price * -log2 p_k in place of the distance follow, p_k the share of
            the values at c_k (entropy-constrained quantization, Algorithm 1, arXiv:1612.01543). Centroids may go.

    Returns:
        The centroids in order, at most `count`, float64, and the number of the one that each value went to, shaped like
        `values`.
    """
    centroids, borders = line_of(values.ravel(), count).fitted(count, init, seed, price)
    return centroids, searched(borders, values)


def sample_of(values: np.ndarray, count: int = 1) -> np.ndarray:
    """Some of the values of a long list, enough for `count` centroids; all of a short one."""
    size = max(_SAMPLE, count << 12)
    if values.size <= 2 * size:
        return values
    return values[np.random.default_rng(0).integers(0, values.size, size)]


def line_of(values: np.ndarray, count: int, zeros: bool = True) -> "Line":
    """The values of a list, or what stands for them and for `count` centroids, with or without its zeros."""
    sample = sample_of(values, count)
    some = sample.size < values.size
    sample = np.sort(sample if zeros else sample[sample != 0])
    if some and np.count_nonzero(sample[1:] != sample[:-1]) <= _THIN:  # few different ones: all as they are
        some, sample = False, np.sort(values if zeros else values[values != 0])
    if not some:
        return Line(sample.astype(np.float64), np.ones(sample.size))
    low, high = sample[len(sample) >> 7], sample[-1 - (len(sample) >> 7)]
    far = np.concatenate([(part := values[place])[(part < low) | (part > high)] for place in pieces(values.size)])
    middle = sample[(sample >= low) & (sample <= high)]
    alive = values.size if zeros else int(np.count_nonzero(values))
    parts = [np.sort(far[far < low]), middle, np.sort(far[far > high])]
    mass = [
        np.full(part.size, share)
        for part, share in zip(parts, (1.0, (alive - far.size) / middle.size, 1.0), strict=True)
    ]
    return Line(np.concatenate(parts).astype(np.float64), np.concatenate(mass))


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """Numbers in order, and how many each stands for."""

    points: np.ndarray
    mass: np.ndarray

    @functools.cached_property
    def counts(self) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(self.mass)])

    @functools.cached_property
    def sums(self) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(self.points * self.mass)])

    def fitted(self, count: int, init: str, seed: int, price: float) -> tuple[np.ndarray, np.ndarray]:
        """Centroids, and the borders between them; the arguments are those of `kmeans`."""
        centroids = self.points[np.flatnonzero(np.diff(self.points, prepend=-np.inf))]
        if len(centroids) > count:
            thin = self._thinned(max(_THIN, 16 * count))
            if init == "kmeans++":
                first = [thin._drawn(count, start) for start in range(seed, seed + 4)]
            else:
                first = [initial(self._evenly(1 << 16), count, init)]
            _, centroids = min((thin._settled(start) for start in first), key=lambda pair: pair[0])
            if thin is not self:
                _, centroids = self._settled(centroids)
        return self._priced(centroids, price) if price else (centroids, _middles(centroids))

    def _evenly(self, most: int) -> np.ndarray:
        """At most so many numbers, each of which stands for as many as the others; the least and the largest too."""
        if len(self.points) <= most and (self.mass == 1).all():
            return self.points
        places = np.searchsorted(self.counts[1:], np.linspace(0, self.counts[-1], most))
        return self.points[np.minimum(places, len(self.points) - 1)]

    def _thinned(self, count: int) -> "Line":
        """At most `2 * count` means of neighbours: few of them and close to each other."""
        if len(self.points) <= 2 * count:
            return self
        even = np.searchsorted(self.counts, np.linspace(0, self.counts[-1], count))
        near = np.searchsorted(self.points, np.linspace(self.points[0], self.points[-1], count))
        cuts = np.unique(np.concatenate([[0], even, near, [len(self.points)]]))
        mass = self.counts[cuts[1:]] - self.counts[cuts[:-1]]
        return Line((self.sums[cuts[1:]] - self.sums[cuts[:-1]]) / mass, mass)

    def _drawn(self, count: int, seed: int) -> np.ndarray:
        return np.sort(kmeans_plus_plus(self.points[:, None], count, np.random.default_rng(seed), self.mass)[:, 0])

    def _cuts(self, borders: np.ndarray) -> np.ndarray:
        """Where the share of each centroid begins, and the number of points."""
        return np.concatenate([[0], np.searchsorted(self.points, borders, side="right"), [len(self.points)]])

    def _shares(self, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many numbers are between the cuts, and their sums."""
        counts, sums = self.counts[cuts], self.sums[cuts]
        return counts[1:] - counts[:-1], sums[1:] - sums[:-1]

    def _settled(self, centroids: np.ndarray) -> tuple[float, np.ndarray]:
        """Lloyd's rounds until no value changes its centroid: the squared error, and the centroids."""
        before: np.ndarray | None = None
        while True:
            cuts = self._cuts(_middles(centroids))
            counts, sums = self._shares(cuts)
            if before is not None and (cuts == before).all():
                if counts.all():
                    squares = float((self.mass * np.square(self.points)).sum())
                    return squares - float((counts * np.square(centroids)).sum()), centroids
                own = np.repeat(centroids, np.diff(cuts))
                centroids[np.argmin(counts)] = self.points[np.argmax(np.abs(self.points - own))]
                centroids.sort()
            else:
                centroids = np.where(counts > 0, sums / np.where(counts > 0, counts, 1), centroids)
            before = cuts

    def _priced(self, centroids: np.ndarray, price: float) -> tuple[np.ndarray, np.ndarray]:
        """Rounds in which a value also pays for its centroid's bits: the centroids that are left, and their borders."""
        cuts = self._cuts(_middles(centroids))
        while True:
            cuts = np.unique(cuts)  # a centroid without values goes
            counts, sums = self._shares(cuts)
            centroids = sums / counts
            bits = -np.log2(counts / self.counts[-1])
            while True:
                borders = _middles(centroids) + price * np.diff(bits) / (2 * np.diff(centroids))
                behind = np.flatnonzero(np.diff(borders) <= 0)
                if not len(behind):
                    break
                # Its neighbours are cheaper wherever it could be the best.
                centroids, bits = np.delete(centroids, behind[0] + 1), np.delete(bits, behind[0] + 1)
            now = self._cuts(borders)
            if np.array_equal(now, cuts):
                return centroids, borders
            cuts = now


def _middles(centroids: np.ndarray) -> np.ndarray:
    return (centroids[1:] + centroids[:-1]) / 2


_FEW = 32  # borders: comparing with each of them is faster than by halves


def searched(borders: np.ndarray, values: np.ndarray, first: int = 0) -> np.ndarray:
    """`first + np.searchsorted(borders, values)` for floats, without a branch, in a fraction of its time.

    Values are compared with every border where there are few of them, by halves else.
    """
    real = np.promote_types(values.dtype, np.float32)
    edges = borders.astype(real)
    edges = np.where(edges > borders, np.nextafter(edges, edges.dtype.type(-np.inf)), edges)
    if len(edges) <= _FEW and first + len(edges) < 256:
        return _counted(edges, values, first)
    half = 1 << max(len(edges).bit_length() - 1, 0)
    edges = np.append(edges, np.full(2 * half - len(edges), np.inf, edges.dtype))
    flat, found = values.ravel(), np.empty(values.size, np.int32)
    for place in pieces(flat.size):
        piece, step = flat[place].astype(real, copy=False), half
        below = np.multiply(piece > edges[half - 1], half, dtype=np.int32)
        while step := step // 2:
            below += np.multiply(piece > edges[step - 1 :].take(below), step, dtype=np.int32)
        np.add(below, first, out=found[place])
    return found.reshape(values.shape)


def _counted(edges: np.ndarray, values: np.ndarray, first: int) -> np.ndarray:
    """`first` and how many edges are below each value."""
    flat, found = values.ravel(), np.empty(values.size, np.int32)
    for place in pieces(flat.size):
        piece = flat[place].astype(edges.dtype, copy=False)
        below, over = np.full(piece.size, first, np.uint8), np.empty(piece.size, bool)
        for edge in edges:
            below += np.greater(piece, edge, out=over).view(np.uint8)
        found[place] = below
    return found.reshape(values.shape)


def pieces(size: int) -> Iterator[slice]:
    """Parts of a list: what is made of one stays in the cache."""
    return (slice(start, min(start + (1 << 15), size)) for start in range(0, size, 1 << 15))
