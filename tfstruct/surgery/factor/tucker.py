"""Factors by Tucker's decomposition: fewer channels, the taps, all channels again."""

import numpy as np

from tfstruct.surgery.factor.factors import FactorLayer, Factors, Rank, principal, tails


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
        self._tails = tails(values_p), tails(values_q)
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
        found = [FactorLayer("_u", (*self.ones, ins, a))] if a < ins else []
        found.append(FactorLayer("_core" if b < outs else "", (*taps, a, b), self.space))
        return [*found, FactorLayer("", (*self.ones, b, outs))] if b < outs else found

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
