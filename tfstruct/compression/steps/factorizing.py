"""Kernels as products of smaller ones."""

import dataclasses
from collections.abc import Mapping

from tfstruct.compression.outcome import Outcome
from tfstruct.compression.steps.edits import trained_after
from tfstruct.compression.steps.step import Step
from tfstruct.compression.work import Work
from tfstruct.surgery import factorize


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factorize(Step):
    """Replaces kernels by products of smaller ones (`surgery.factorize`), and trains them.

    Attributes:
        layers: names; None: all.
        energy: of each kernel, that stays, in (0, 1]; 0.95 where nothing else is given.
        macs: instead of `energy`: the share of the multiply-accumulates that may stay.
        rank: instead of both: of all these layers, or by name.
        method: of `surgery.factorize`.
    """

    kind = "factorize"
    share = 0.3

    layers: tuple[str, ...] | None = None
    energy: float | None = None
    macs: float | None = None
    rank: int | tuple[int, int] | Mapping[str, int | tuple[int, int]] | None = None
    method: str = "svd"

    def run(self, work: Work) -> Outcome:
        given = (self.rank, self.energy, self.macs)
        energy = 0.95 if all(one is None for one in given) else self.energy
        return trained_after(work, self, factorize(
            work.model, self.layers, rank=self.rank, energy=energy, macs=self.macs, method=self.method
        ))  # fmt: skip
