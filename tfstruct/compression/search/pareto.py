"""Pareto front: the candidates that no other candidate dominates."""

from collections.abc import Sequence

import numpy as np

from tfstruct.compression.candidate import Candidate


def costs(candidate: Candidate, objectives: Sequence[str]) -> tuple[float, ...]:
    """The objectives of a candidate, all to be minimized: `quality` is negated if more of it is better."""
    signs = [-1.0 if name == "quality" and candidate.greater_is_better else 1.0 for name in objectives]
    return tuple(sign * getattr(candidate, name) for sign, name in zip(signs, objectives, strict=True))


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points on the Pareto front: no other point is as low in all objectives and lower in one. Of equal
    points the first."""
    figures = np.array(points)
    found = []
    for i, point in enumerate(figures):
        no_higher = (figures <= point).all(axis=1)
        lower = no_higher & (figures < point).any(axis=1)
        if not lower.any() and not no_higher[:i].any():
            found.append(i)
    return found
