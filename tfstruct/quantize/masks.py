"""Masks of attention in integers: what is a mask, and how far below all others masked values are, in twin and file.

The numbers may be floats or scalars of a graph.
"""

import math

# A value so many times the span of what it is added to, or stands beside, is a mask: before a softmax, where nothing so
# far below is seen, and elsewhere.
_FACTOR, _FACTOR_ELSEWHERE = 2.0, 100.0
# The least size of a mask where no softmax reads it.
LEAST_ELSEWHERE = 1e4
# How much further than to the end of the range an added mask reaches: its integers are coarse.
_SLACK = 1.02


def mask_depth(count: int, bits: int = 8) -> float:
    """How far below all others a softmax over `count` values has to have one, for all that are so low to get nothing
    in integers of so many bits: count e^-d = 2^-bits."""
    return math.log(2.0**bits * count)


def limits(span, depth=None) -> tuple:
    """What a mask is as large as, each of them, beside values of this span; `depth` where a softmax reads them."""
    return (_FACTOR_ELSEWHERE * span, LEAST_ELSEWHERE) if depth is None else (_FACTOR * (span + depth),)


def is_mask(low, high, limits):
    """Whether values in [low, high] mask: as low as all limits, and not as high as all of them, which were data."""
    below, inside = low <= -limits[0], high < limits[0]
    for limit in limits[1:]:
        below, inside = below & (low <= -limit), inside | (high < limit)
    return below & inside


def masked_low(low, high, depth=None):
    """Where masked values are, beside others in [low, high]; without a softmax just below these."""
    return low - (0.02 * (high - low) + 1e-6 if depth is None else depth)


def added_mask(low, high):
    """What is added to values of up to `high` so that they end at `low`, where the range does."""
    return _SLACK * (low - high)
