"""Factors by the canonical polyadic decomposition (CP): one factor an axis."""

import math
import warnings

import numpy as np

from tfstruct.surgery.factor.factors import FactorLayer, Factors, squares


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
                slides.append(FactorLayer(suffix, (*shape, r, 1), (axis,), depthwise=True))
        return [FactorLayer("_u", (*self.ones, ins, r)), *slides, FactorLayer("", (*self.ones, r, outs))]

    def kernels(self, rank):
        if rank[0] not in self._known:
            *taps, p, q = canonical(self.kernel, rank[0])
            stages = self.stages(rank)
            slides = []
            for factor in taps:
                if factor.shape[0] == 1 and len(taps) == 2:
                    p = p * factor  # an axis of one tap needs no layer
                else:
                    slides.append(factor)
            parts = [p, *slides, q.T]
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
