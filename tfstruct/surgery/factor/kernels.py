"""Kernels as products of smaller ones, in NumPy: by singular values, Tucker, CP, rows and columns, depth and point.

A kernel has the shape (*taps, in, out); a dense layer's has no taps. Errors are squared Frobenius norms in float64.
"""

import dataclasses
import math
import warnings

import numpy as np

METHODS = ("svd", "tucker", "cp", "spatial", "depthwise")
Rank = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of the layers that stand for another.

    Attributes:
        suffix: of its name; empty for the last.
        kernel: shape, in Keras's order; a depthwise one's is (*taps, in, multiplier).
        axes: the spatial axes that it slides over: there it takes the layer's stride, dilation and padding.
        depthwise: whether it sums over taps alone.
    """

    suffix: str
    kernel: tuple[int, ...]
    axes: tuple[int, ...] = ()
    depthwise: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.kernel)


class Factors:
    """A kernel and its factors of any rank.

    Attributes:
        kernel, norm2: W, and ||W||_F^2.
        full: the largest rank there is sense in.
    """

    full: Rank

    def __init__(self, kernel: np.ndarray):
        self.kernel = kernel
        self.norm2 = squares(kernel)

    @property
    def ones(self) -> tuple[int, ...]:
        """The taps of a kernel without any."""
        return (1,) * (self.kernel.ndim - 2)

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(range(self.kernel.ndim - 2))

    def ranks(self) -> list[Rank]:
        """Those worth a look where a budget is to be met."""
        return [(r,) for r in range(1, self.full[0] + 1)]

    def stages(self, rank: Rank) -> list[Stage]:
        raise NotImplementedError

    def error2(self, rank: Rank) -> float:
        """||W - W'||_F^2, or a bound of it."""
        raise NotImplementedError

    def smallest(self, allowed: float) -> Rank | None:
        """The smallest rank whose `error2` is at most `allowed`; None if there is none."""
        return next((rank for rank in self.ranks() if self.error2(rank) <= allowed), None)

    def larger(self, rank: Rank) -> Rank | None:
        """The next rank, for when rounding has broken a promise."""
        grown = tuple(min(r + 1, most) for r, most in zip(rank, self.full, strict=True))
        return None if grown == rank else grown

    def kernels(self, rank: Rank) -> list[np.ndarray]:
        """The kernels of `stages(rank)`."""
        raise NotImplementedError

    def restored(self, kernels: list[np.ndarray]) -> np.ndarray:
        """W', the kernel that the factors make."""
        raise NotImplementedError

    def relative_error(self, kernels: list[np.ndarray]) -> float:
        """||W - W'||_F / ||W||_F, measured on the factors as they are stored."""
        if not self.norm2:
            return 0.0
        return math.sqrt(squares(self.kernel, self.restored(kernels)) / self.norm2)


def squares(a: np.ndarray, b: np.ndarray | None = None) -> float:
    """sum (a - b)^2 in float64, a slice at a time."""
    a = a.reshape(-1)
    b = None if b is None else b.reshape(-1)
    total = 0.0
    for i in range(0, a.size, 1 << 20):
        part = a[i : i + (1 << 20)].astype(np.float64)
        if b is not None:
            part -= b[i : i + (1 << 20)]
        total += float(part @ part)
    return total


def principal(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right singular vectors as columns, the largest first, and squared singular values: of one matrix or a stack.

    By the eigenvectors of A^T A in float64, exact to float64's rounding of the largest one's square.
    """
    wide = matrix.astype(np.float64)
    values, vectors = np.linalg.eigh(np.swapaxes(wide, -1, -2) @ wide)
    return vectors[..., ::-1], np.maximum(values[..., ::-1], 0.0)


def _tails(values: np.ndarray) -> np.ndarray:
    """Entry r: the sum of all but the first r values, of which the last is zero."""
    return np.append(np.cumsum(values[::-1])[::-1], 0.0)


class _Split(Factors):
    """The kernel as a matrix A, and A ~ (A V_r S_r^-1/2) (S_r^1/2 V_r^T): the best of its rank (Eckart and Young)."""

    def __init__(self, kernel: np.ndarray):
        super().__init__(kernel)
        self._matrix = self._arranged()
        rows, columns = self._matrix.shape[-2:]
        self._turned = rows < columns
        self._vectors, self._values = principal(np.swapaxes(self._matrix, -1, -2) if self._turned else self._matrix)
        self.full = (min(rows, columns),)
        values = self._values if self._values.ndim == 1 else self._values.sum(0)
        self._tail = _tails(values)

    def _arranged(self) -> np.ndarray:
        raise NotImplementedError

    def error2(self, rank: Rank) -> float:
        return float(self._tail[rank[0]])

    def _halves(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        vectors = self._vectors[..., :rank]
        matrix = self._matrix
        spread = self._values[..., None, :rank] ** 0.25
        inverse = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        if self._turned:
            left, right = vectors * spread, np.swapaxes(np.swapaxes(matrix, -1, -2) @ vectors * inverse, -1, -2)
        else:
            left, right = matrix @ vectors * inverse, np.swapaxes(vectors * spread, -1, -2)
        return left, right


class SVD(_Split):
    """kernel (taps * in, out) = U V: all taps to r channels, then 1 x 1."""

    def _arranged(self):
        return self.kernel.reshape(-1, self.kernel.shape[-1])

    def stages(self, rank):
        *taps, ins, outs = self.kernel.shape
        return [Stage("_u", (*taps, ins, rank[0]), self.space), Stage("", (*self.ones, rank[0], outs))]

    def kernels(self, rank):
        return [half.reshape(s.kernel) for half, s in zip(self._halves(rank[0]), self.stages(rank), strict=True)]

    def restored(self, kernels):
        u, v = kernels
        return (u.reshape(-1, u.shape[-1]) @ v.reshape(v.shape[-2:])).reshape(self.kernel.shape)


class Spatial(_Split):
    """kernel (kh * in, kw * out) = U V: kh x 1 to r channels, then 1 x kw (Sec. 2.2, arXiv:1405.3866)."""

    def _arranged(self):
        kh, kw, ins, outs = self.kernel.shape
        return self.kernel.transpose(0, 2, 1, 3).reshape(kh * ins, kw * outs)

    def stages(self, rank):
        kh, kw, ins, outs = self.kernel.shape
        return [Stage("_vertical", (kh, 1, ins, rank[0]), (0,)), Stage("", (1, kw, rank[0], outs), (1,))]

    def kernels(self, rank):
        kh, kw, ins, outs = self.kernel.shape
        u, v = self._halves(rank[0])
        return [u.reshape(kh, 1, ins, rank[0]), v.reshape(1, rank[0], kw, outs).swapaxes(1, 2)]

    def restored(self, kernels):
        u, v = kernels
        return np.einsum("hir,wro->hwio", u[:, 0], v[0], optimize=True)


class Depthwise(_Split):
    """For each channel that comes in, its (taps, out) slice of rank m: depthwise with m as multiplier, then 1 x 1."""

    def _arranged(self):
        return np.swapaxes(self.kernel.reshape(-1, *self.kernel.shape[-2:]), 0, 1)

    def stages(self, rank):
        *taps, ins, outs = self.kernel.shape
        return [
            Stage("_depthwise", (*taps, ins, rank[0]), self.space, depthwise=True),
            Stage("", (*self.ones, ins * rank[0], outs)),
        ]

    def kernels(self, rank):
        u, v = self._halves(rank[0])  # (in, taps, m), (in, m, out)
        return [np.swapaxes(u, 0, 1).reshape(self.stages(rank)[0].kernel), v.reshape(self.stages(rank)[1].kernel)]

    def restored(self, kernels):
        u, v = kernels
        ins, outs = self.kernel.shape[-2:]
        by_channel = v.reshape(ins, -1, outs)
        return np.einsum("tim,imo->tio", u.reshape(-1, *u.shape[-2:]), by_channel).reshape(self.kernel.shape)


class Tucker(Factors):
    """kernel[t, i, o] = sum over a, b of core[t, a, b] P[i, a] Q[o, b]: 1 x 1, core, 1 x 1 (arXiv:1511.06530).

    P and Q by HOSVD, then by higher-order orthogonal iteration, which only lowers the error. A side of full rank needs
    no layer of its own. error2(a, b) = what HOSVD drops in both unfoldings, a bound.
    """

    def __init__(self, kernel: np.ndarray):
        super().__init__(kernel)
        self._flat = kernel.reshape(-1, *kernel.shape[-2:]).astype(np.float64)
        _, ins, outs = self._flat.shape
        self._p, values_p = principal(self._flat.transpose(0, 2, 1).reshape(-1, ins))
        self._q, values_q = principal(self._flat.reshape(-1, outs))
        self._tails = _tails(values_p), _tails(values_q)
        self._tails[0][ins], self._tails[1][outs] = 0.0, 0.0
        self.full = (ins, outs)

    def error2(self, rank):
        return float(self._tails[0][rank[0]] + self._tails[1][rank[1]])

    def _size(self, rank: Rank) -> int:
        return sum(stage.size for stage in self.stages(rank))

    def ranks(self):
        """The cheapest pair for each of some sixty errors, and (1, 1)."""
        levels = np.concatenate([[0.0], np.geomspace(1e-6, 2.0, 60)]) * self.norm2
        found = {rank for level in levels if (rank := self.smallest(level)) is not None} | {(1, 1)}
        return sorted(found, key=self._size)

    def smallest(self, allowed):
        pairs = []
        for a in range(1, self.full[0] + 1):
            fits = np.flatnonzero(self._tails[0][a] + self._tails[1][1:] <= allowed)
            if len(fits):
                pairs.append((a, int(fits[0]) + 1))
        return min(pairs, key=self._size, default=None)

    def stages(self, rank):
        *taps, ins, outs = self.kernel.shape
        a, b = rank
        found = [Stage("_u", (*self.ones, ins, a))] if a < ins else []
        found.append(Stage("_core" if b < outs else "", (*taps, a, b), self.space))
        return [*found, Stage("", (*self.ones, b, outs))] if b < outs else found

    def kernels(self, rank):
        (ins, outs), (a, b) = self.full, rank
        p, q = self._p[:, :a], self._q[:, :b]
        for _ in range(10 if a < ins and b < outs else 1):
            if a < ins:
                p = principal(np.einsum("tio,ob->tbi", self._flat, q, optimize=True).reshape(-1, ins))[0][:, :a]
            if b < outs:
                q = principal(np.einsum("tio,ia->tao", self._flat, p, optimize=True).reshape(-1, outs))[0][:, :b]
        p, q = (np.eye(ins) if a == ins else p), (np.eye(outs) if b == outs else q)
        core = np.einsum("tio,ia,ob->tab", self._flat, p, q, optimize=True)
        parts = ([p] if a < ins else []) + [core] + ([q.T] if b < outs else [])
        return [part.reshape(stage.kernel) for part, stage in zip(parts, self.stages(rank), strict=True)]

    def restored(self, kernels):
        ins, outs = self.full
        # The core has several taps, so the first is the 1 x 1 in front of it, or it.
        leads = kernels[0].shape[:-2] == self.ones
        core = kernels[1 if leads else 0]
        left = kernels[0].reshape(ins, -1) if leads else np.eye(ins)
        right = np.eye(outs) if kernels[-1] is core else kernels[-1].reshape(-1, outs)
        core = core.reshape(-1, *core.shape[-2:])
        return np.einsum("ia,tab,bo->tio", left, core, right, optimize=True).reshape(self.kernel.shape)


class CP(Factors):
    """kernel[y, x, i, o] = sum over r of H[y, r] W[x, r] P[i, r] Q[o, r], by alternating least squares.

    1 x 1 to r channels, depthwise kh x 1, depthwise 1 x kw, 1 x 1 (Sec. 3, arXiv:1412.6553).
    """

    def __init__(self, kernel: np.ndarray):
        super().__init__(kernel)
        self._known: dict[int, list[np.ndarray]] = {}
        # Beyond it the factors are larger than the kernel.
        self.full = (max(1, kernel.size // sum(kernel.shape)),)

    def ranks(self):
        most = self.full[0]
        return [(r,) for r in sorted({max(1, round(r)) for r in np.geomspace(1, most, 10)})]

    def error2(self, rank):
        return squares(self.kernel, self.restored(self.kernels(rank)))

    def smallest(self, allowed):
        low, high = 0, 1
        while self.error2((high,)) > allowed:
            if high == self.full[0]:
                return None
            low, high = high, min(2 * high, self.full[0])
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.error2((middle,)) <= allowed else (middle, high)
        return (high,)

    def stages(self, rank):
        *taps, ins, outs = self.kernel.shape
        (r,) = rank
        slides = []
        for axis, suffix in enumerate(("_vertical", "_horizontal") if len(taps) == 2 else ("_depthwise",)):
            if taps[axis] > 1 or len(taps) == 1:
                shape = tuple(n if i == axis else 1 for i, n in enumerate(taps))
                slides.append(Stage(suffix, (*shape, r, 1), (axis,), depthwise=True))
        return [Stage("_u", (*self.ones, ins, r)), *slides, Stage("", (*self.ones, r, outs))]

    def kernels(self, rank):
        if rank[0] not in self._known:
            *taps, p, q = canonical(self.kernel, rank[0])
            stages = self.stages(rank)
            for axis, factor in enumerate(taps):
                if factor.shape[0] == 1 and len(taps) == 2:
                    p = p * factor  # an axis of one tap needs no layer
                    taps[axis] = None
            parts = [p, *(factor for factor in taps if factor is not None), q.T]
            self._known[rank[0]] = [part.reshape(stage.kernel) for part, stage in zip(parts, stages, strict=True)]
        return self._known[rank[0]]

    def restored(self, kernels):
        p, *slides, q = kernels
        r = q.shape[-2]
        taps = np.ones((1,) * len(self.ones) + (r,))
        for factor in slides:
            taps = taps * factor[..., 0]
        p, q = p.reshape(-1, r), q.reshape(r, -1)
        flat = taps.reshape(-1, r)
        return np.einsum("tr,ir,ro->tio", flat, p, q, optimize=True).reshape(self.kernel.shape)


def canonical(kernel: np.ndarray, rank: int) -> list[np.ndarray]:
    """Factors (size, rank) of each axis, of equal norms, by tensorly's `parafac`; the better of two starts.

    Raises:
        ImportError: tensorly is not installed.
    """
    tensorly, parafac = _tensorly()
    best: list[np.ndarray] = []
    least = math.inf
    wide = kernel.astype(np.float64)
    for start in ("svd", "random") if wide.size <= 1 << 16 else ("svd",):
        with tensorly.backend_context("numpy", local_threadsafe=True), warnings.catch_warnings():
            # It says that a start of few singular vectors is filled up.
            warnings.simplefilter("ignore", UserWarning)
            weights, factors = parafac(wide, rank, n_iter_max=200, init=start, tol=1e-8, random_state=0)
        factors = [np.asarray(f) for f in factors]
        norms = np.stack([np.linalg.norm(f, axis=0) for f in factors])
        even = (np.abs(weights) * norms.prod(0)) ** (1 / len(factors))
        factors = [
            f * np.divide(even, n, out=np.zeros_like(n), where=n > 0) for f, n in zip(factors, norms, strict=True)
        ]
        factors[0] = factors[0] * np.sign(weights)
        letters = "abcde"[: len(factors)]
        made = np.einsum(",".join(f"{c}r" for c in letters) + f"->{letters}", *factors, optimize=True)
        error = squares(wide, made)
        if error < least:
            best, least = factors, error
    return best


def _tensorly():
    try:
        import tensorly
        from tensorly.decomposition import parafac
    except ImportError as error:
        raise ImportError(
            'method="cp" needs tensorly, which is not installed. Install it: pip install "tfstruct[cp]".'
        ) from error
    return tensorly, parafac


def factors_of(kernel: np.ndarray, method: str) -> Factors | str:
    """The factors, or why the method has none for a kernel of this shape."""
    taps = kernel.shape[:-2]
    if not np.isfinite(kernel).all():
        return "its kernel holds values that are not finite"
    if math.prod(taps) == 1:
        # A matrix: its Tucker and CP forms are its singular values.
        return SVD(kernel) if method in ("svd", "tucker", "cp") else f"{method} needs a kernel of several taps"
    if method in ("cp", "depthwise") and len(taps) > 2:
        return f"Keras has no depthwise convolution over {len(taps)} axes"
    if method == "spatial" and (len(taps) != 2 or 1 in taps):
        return "spatial needs a kernel of several rows and columns"
    return {"svd": SVD, "tucker": Tucker, "cp": CP, "spatial": Spatial, "depthwise": Depthwise}[method](kernel)
