"""How the weights of kernels are put into groups that share a value."""

import dataclasses
import itertools
import math

import numpy as np

from tfstruct import codebooks
from tfstruct.arguments import require_one_of
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.graph.kernels import Kernel, lent

KINDS = ("kmeans", "hash", "product")
SCOPES = ("layer", "channel", "model")


@dataclasses.dataclass(frozen=True)
class Sharing:
    """Which groups there are; the fields are those of `Cluster`.

    Kernels come as lists, one for each set of kernels with common codebooks.
    """

    n_clusters: int
    kind: str = "kmeans"
    per: str = "layer"
    init: str = "kmeans++"
    entropy: float | None = None
    keep_zeros: bool = True
    block: int | None = None
    seed: int = 0

    def __post_init__(self):
        known = {"share": (self.kind, KINDS), "per": (self.per, SCOPES), "init": (self.init, codebooks.INITS)}
        for name, (value, names) in known.items():
            require_one_of(name, value, names)
        for name, count, least in (("n_clusters", self.n_clusters, 2), ("block", self.block, 1)):
            if count is not None and not (isinstance(count, int) and count >= least):
                raise ArgumentError(f"`{name}` must be an integer of at least {least}. Received: {count!r}.")
        if (self.block is None) == (self.kind == "product"):
            raise ArgumentError(
                f"`block` goes with share='product'. Received: block={self.block}, share={self.kind!r}."
            )
        if self.kind != "kmeans" and self.init != "kmeans++":
            raise ArgumentError(f"`init` goes with share='kmeans'. Received: init={self.init!r}, share={self.kind!r}.")
        if self.kind != "kmeans" and self.entropy is not None:
            raise ArgumentError(f"`entropy` goes with share='kmeans'. Received: share={self.kind!r}.")
        if self.kind == "hash" and self.per == "channel":
            raise ArgumentError("share='hash' goes with per='layer' or 'model': a hash knows no channels.")
        if self.entropy is not None and not 0 < self.entropy < math.log2(self.n_clusters):
            raise ArgumentError(
                f"`entropy` must be between 0 and log2({self.n_clusters}) = {math.log2(self.n_clusters):.4g} bits a "
                f"weight. Received: {self.entropy}."
            )

    def books(self, kernels: list[Kernel]) -> list[list[Kernel]]:
        return [kernels] if self.per == "model" else [[kernel] for kernel in kernels]

    def size(self, kernel: Kernel) -> int:
        """How many groups a kernel may have, group 0 counted too."""
        count = self.n_clusters * (self.block or 1)
        if self.per == "channel":
            count *= self._rows(kernel).shape[1] // self.block if self.block else kernel.shape[-1]
        return 1 + count

    def misfit(self, kernel: Kernel) -> str | None:
        """Why the weights of this kernel do not share values; None if they can."""
        values = lent(kernel.variable)
        low, high = values.min(), values.max()  # not a number where a weight is none
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ModelError(f"{kernel.name} has weights that are not finite: training has diverged.")
        if self.keep_zeros and low == high == 0:
            return "all its weights are zero"
        count, what = values.size, "weights"
        if self.block is not None:
            rows = self._rows(kernel)
            if rows.shape[1] % self.block:
                return f"its vectors of {rows.shape[1]} do not divide into runs of {self.block}"
            count, what = values.size // self.block, f"runs of {self.block}"
            count = len(rows) if self.per == "channel" else count
        elif self.per == "channel":
            count, what = values.size // kernel.shape[-1], "weights a channel"
        return f"it has {count} {what}" if count <= self.n_clusters and self.per != "model" else None

    def groups(self, books: list[list[Kernel]]) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Groups and signs of each kernel, one after the other."""
        return {"kmeans": self._by_value, "hash": self._by_hash, "product": self._by_product}[self.kind](books)

    def _by_value(self, books):
        values = [[lent(kernel.variable) for kernel in book] for book in books]
        settings = (self.n_clusters, self.init, self.keep_zeros, self.seed, self.entropy)
        if self.per != "channel":
            return [(group, None) for group in itertools.chain(*codebooks.by_value(values, *settings))]
        views = [kernel.view(value) for (kernel,), (value,) in zip(books, values, strict=True)]
        channels = [[view[..., i]] for view in views for i in range(view.shape[-1])]
        energies = [float(np.square(view).sum()) for view in views for _ in range(view.shape[-1])]
        found = iter(codebooks.by_value(channels, *settings, energies))
        pairs = []
        for (kernel,), view in zip(books, views, strict=True):
            groups = np.stack([next(found)[0] for _ in range(view.shape[-1])], axis=-1)
            first = np.arange(view.shape[-1]) * self.n_clusters  # each channel numbers its own
            pairs.append((kernel.unview(np.where(groups > 0, groups + first, 0)), None))
        return pairs

    def _by_hash(self, books):
        pairs: list[tuple] = []
        for book in books:
            values = [lent(kernel.variable) for kernel in book]
            pairs += zip(*codebooks.by_hash(values, self.n_clusters, self.keep_zeros, self.seed), strict=True)
        return pairs

    def _by_product(self, books):
        assert self.block is not None  # products have one
        pairs = []
        for book in books:
            rows = [self._rows(kernel) for kernel in book]
            by_place = self.per == "channel"
            found = codebooks.by_product(rows, self.n_clusters, self.block, by_place, self.keep_zeros, self.seed)
            pairs += [(k.unview(g.T if k.sums else g), None) for k, g in zip(book, found, strict=True)]
        return pairs

    def _rows(self, kernel: Kernel) -> np.ndarray:
        """A kernel as the vectors of product quantization: what makes one output, or the rows of a table."""
        view = kernel.view(lent(kernel.variable))
        matrix = view.reshape(-1, view.shape[-1])
        return matrix.T if kernel.sums else matrix
