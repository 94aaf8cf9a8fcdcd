"""What single weights are worth, by the criteria of `Prune`."""

from collections.abc import Callable, Sequence

import numpy as np

from tfstruct.callbacks.constraints import Masked
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.graph.kernels import Kernel, lent
from tfstruct.masks import Scores

CRITERIA = ("magnitude", "movement", "gradient", "snip", "random")


class WeightScores:
    """The scores of masked kernels as they are now.

    Args:
        criterion, seed: those of `Prune`.
        masked: the mask of each kernel. What is zero stays zero: its score is below every other.
        gradients: of each kernel; None for criteria that need none.
    """

    def __init__(
        self,
        criterion: str | Callable,
        seed: int,
        kernels: Sequence[Kernel],
        masked: Sequence[Masked],
        gradients: Sequence[np.ndarray] | None,
    ):
        self._criterion, self._random = criterion, np.random.default_rng(seed)
        self._kernels, self._masked = kernels, masked
        self._gradients = [None] * len(kernels) if gradients is None else gradients

    def all(self) -> list[Scores]:
        every = zip(self._kernels, self._masked, self._gradients, strict=True)
        return [self._scores(kernel, masked, gradient) for kernel, masked, gradient in every]

    def _scores(self, kernel: Kernel, masked: Masked, gradient) -> Scores:
        read, key = self._values(kernel, masked, gradient)
        values = read()
        # The extremes are not a number where one value is not, and need no array of their own.
        if not (np.isfinite(values.max()) and np.isfinite(values.min())):
            raise ModelError(f"The scores of {kernel.name} are not finite: training has diverged.")
        stays = masked.stays()
        return Scores(lambda: kernel.view(read()), key, None if stays.all() else kernel.view(stays))

    def _values(self, kernel: Kernel, masked: Masked, gradient) -> tuple[Callable[[], np.ndarray], Callable | None]:
        """A function that gives the scores, or what they are the magnitudes of; it keeps no copy of weights."""
        if self._criterion == "magnitude":
            return (lambda: lent(kernel.variable)), np.abs
        if self._criterion == "movement":
            return (lambda: lent(masked.score)), None
        if self._criterion == "random":
            score = self._random.random(tuple(kernel.variable.shape))
        elif callable(self._criterion):
            score = _of_users(self._criterion, kernel)
        else:
            score = np.abs(gradient)
            score = score * np.abs(lent(kernel.variable)) if self._criterion == "snip" else score
        return (lambda: score), None


def _of_users(criterion: Callable, kernel: Kernel) -> np.ndarray:
    score, shape = np.asarray(criterion(kernel.variable), np.float64), tuple(kernel.variable.shape)
    if score.shape != shape:
        raise ArgumentError(f"`criterion` must return shape {shape} for {kernel.name}. Got: {score.shape}.")
    return score
