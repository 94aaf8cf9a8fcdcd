"""How channels that are to go get to zero: one factor a unit, for every step."""

import numpy as np


class ChannelFactors:
    """The factors of all units of a graph, and what is known of those on their way to zero.

    Attributes:
        chosen: boolean, the units that are to go.
        value: what the weights of a unit are multiplied with at every step: 1 for those that stay, 0 for those that
            have gone.
        updates: how often a unit was driven.
        norms: its norm when it was chosen.
    """

    def __init__(self, units: int):
        self.chosen = np.zeros(units, bool)
        self.value = np.ones(units)
        self.updates = np.zeros(units, int)
        self.norms = np.zeros(units)

    @property
    def zero(self) -> np.ndarray:
        return self.value == 0

    def project(self) -> None:
        """What is chosen goes at once."""
        self.value[self.chosen] = 0

    def drive(self, norms: np.ndarray, strength: float, steps: int) -> None:
        """f^steps = max(0, 1 - updates * strength * norm when chosen / norm now) for what is chosen and not yet zero.

        Args:
            norms: those of now, by unit.
            strength: of the penalty at the first update, as a share of the norm.
            steps: up to the next update.
        """
        driven = self.chosen & ~self.zero
        new = driven & (self.updates == 0)
        self.norms[new] = norms[new]
        self.updates[driven] += 1
        loss = np.divide(self.norms, norms, out=np.full_like(norms, np.inf), where=norms > 0)
        left = np.maximum(0, 1 - strength * self.updates[driven] * loss[driven])
        self.value[driven] = left ** (1 / steps)

    def state(self) -> dict[str, np.ndarray]:
        return {name: value.copy() for name, value in vars(self).items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        for name in vars(self):
            setattr(self, name, np.array(state[name]))
