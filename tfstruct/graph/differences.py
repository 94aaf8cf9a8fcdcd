"""How far apart the outputs of two models are, and by how much rounding may explain it."""

from collections.abc import Sequence

import numpy as np

# Relative to the largest magnitude: what another order of float32 sums explains, and the most that coarser rounding,
# as in half precision, may explain.
ROUNDING, COARSEST = 1e-5, 5e-2


def largest_magnitude(values: Sequence[np.ndarray]) -> float:
    """max |x| over all that is finite; 0 where nothing is."""
    return max((float(np.abs(x[np.isfinite(x)]).max(initial=0.0)) for x in values), default=0.0)


def largest_gap(expected: np.ndarray, got: np.ndarray) -> float:
    """max |expected - got| where `expected` is finite; infinite where `got` is not, or has another shape."""
    if expected.shape != got.shape:
        return np.inf
    judged = np.isfinite(expected)
    if not np.isfinite(got[judged]).all():
        return np.inf
    return float(np.abs(expected[judged] - got[judged]).max(initial=0.0))
