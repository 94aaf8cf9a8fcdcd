"""Attention masks in integers: what counts as a mask, and how far below all other values masked values are placed; one
rule for twin and file.

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
    """How far below all others a value has to be so that a softmax over `count` values gives it nothing in integers of
    so many bits, even if all the others are masked: count e^-d = 2^-bits."""
    return math.log(2.0**bits * count)


def limits(span, depth=None) -> tuple:
    """The magnitudes from which a value counts as a mask beside values of this span; `depth` if a softmax reads
    them."""
    return (_FACTOR_ELSEWHERE * span, LEAST_ELSEWHERE) if depth is None else (_FACTOR * (span + depth),)


def is_mask(low, high, limits):
    """Whether values in [low, high] are a mask: `low` reaches all limits and `high` does not, else they are data."""
    below, inside = low <= -limits[0], high < limits[0]
    for limit in limits[1:]:
        below, inside = below & (low <= -limit), inside | (high < limit)
    return below & inside


def masked_low(low, high, depth=None):
    """The value of masked entries beside others in [low, high]; without a softmax just below these."""
    return low - (0.02 * (high - low) + 1e-6 if depth is None else depth)


def added_mask(low, high):
    """The value to add to entries of up to `high` so that they end at `low`, the end of the range."""
    return _SLACK * (low - high)
