"""Factors by singular values: of all taps, of rows and columns, of each channel's taps."""

import numpy as np

from tfstruct.surgery.factor.factors import FactorLayer, Factors, Rank, principal, tails


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
        self._tail = tails(values)

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
        return [FactorLayer("_u", (*taps, ins, rank[0]), self.space), FactorLayer("", (*self.ones, rank[0], outs))]

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
        return [FactorLayer("_vertical", (kh, 1, ins, rank[0]), (0,)), FactorLayer("", (1, kw, rank[0], outs), (1,))]

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
            FactorLayer("_depthwise", (*taps, ins, rank[0]), self.space, depthwise=True),
            FactorLayer("", (*self.ones, ins * rank[0], outs)),
        ]

    def kernels(self, rank):
        u, v = self._halves(rank[0])  # (in, taps, m), (in, m, out)
        return [np.swapaxes(u, 0, 1).reshape(self.stages(rank)[0].kernel), v.reshape(self.stages(rank)[1].kernel)]

    def restored(self, kernels):
        u, v = kernels
        ins, outs = self.kernel.shape[-2:]
        by_channel = v.reshape(ins, -1, outs)
        return np.einsum("tim,imo->tio", u.reshape(-1, *u.shape[-2:]), by_channel).reshape(self.kernel.shape)
