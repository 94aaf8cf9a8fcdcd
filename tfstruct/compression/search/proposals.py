"""Proposes points of a search space, generation by generation; each depends on the generations before only."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_TRIES = 8  # draws per wanted point: a sampler may propose points that are known already


def first_points(distributions: Mapping, seed: int, count: int) -> list[dict]:
    """A Latin hypercube: each value's range in `count` parts of equal probability, each part once (McKay, Beckman and
    Conover, "A comparison of three methods for selecting values of input variables", Technometrics 21, 1979)."""
    rng = np.random.default_rng(seed)
    columns = {name: (rng.permutation(count) + rng.random(count)) / count for name in sorted(distributions)}
    return [{name: _at(distributions[name], column[i]) for name, column in columns.items()} for i in range(count)]


def next_points(distributions: Mapping, seed: int, count: int, past: Sequence, directions: Sequence) -> Iterator[dict]:
    """Points by the tree-structured Parzen estimator for several objectives (Ozaki et al., "Multiobjective
    tree-structured Parzen estimator", JAIR 73, 2022), as implemented in Optuna. Points of one
    generation know each other's places, not each other's results.

    Args:
        past: finished trials of the generations before, in the order of their numbers.
        directions: of the objectives.
    """
    import optuna

    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=2, constant_liar=True)
    with _silent():
        study = optuna.create_study(directions=directions, sampler=sampler)
        study.add_trials(past)
        for _ in range(_TRIES * count):
            yield study.ask(dict(distributions)).params


def _at(distribution, share: float):
    """The quantile of a distribution at `share`."""
    if hasattr(distribution, "choices"):
        return distribution.choices[int(share * len(distribution.choices))]
    low, high = distribution.low, distribution.high
    if distribution.step is not None:
        return low + distribution.step * int(share * (round((high - low) / distribution.step) + 1))
    if distribution.log:
        low, high = math.log(low), math.log(high)
    value = low + share * (high - low)
    return math.exp(value) if distribution.log else value


@contextlib.contextmanager
def _silent():
    """Silences Optuna, which logs every study that is made; this one is not the user's."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
