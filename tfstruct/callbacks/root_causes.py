"""Which findings of a run come first, and which ones another explains."""

import dataclasses
import itertools
import math

from tfstruct.callbacks.diagnosis import Finding
from tfstruct.callbacks.probe import Figures
from tfstruct.callbacks.symptoms import (
    DEPTH,
    IDLE,
    NEGLIGIBLE,
    Record,
    broken,
    dead,
    exploding,
    overfitting,
    plateau,
    saturated,
    too_high,
    too_low,
    vanishing,
)


def findings(record: Record) -> list[Finding]:
    """All that holds, causes first; what another finding explains is left out."""
    found = {}
    for rule in (broken, exploding, vanishing, dead, saturated, too_high, too_low, overfitting, plateau):
        one = rule(record)
        if one is not None:
            found[rule] = one
    located = broken in found and found[broken].layer is not None
    deep = exploding in found or vanishing in found
    silent = dead in found and _passes_nothing(found[dead], record)
    left = exploding in found and dead in found and _left_dead(record)
    explained = {
        broken: exploding in found or (too_high in found and not located),
        vanishing: silent or saturated in found or exploding in found,
        dead: (exploding in found and not left) or (vanishing in found and not silent),
        saturated: exploding in found,
        too_high: located or exploding in found,
        too_low: located or deep or dead in found or saturated in found or too_high in found,
        overfitting: located or deep or too_high in found,
        plateau: len(found) > 1,
    }
    kept = [rule for rule in found if not explained.get(rule, False)]
    if left and exploding in kept:
        kept.remove(exploding)  # what is there now comes first
        kept.insert(kept.index(dead) + 1, exploding)
    if too_high in kept and dead in kept and not _began(found[dead], record):
        kept.remove(too_high)  # killed on the way: the cause comes first
        kept.insert(kept.index(dead), too_high)
    return [found[rule] for rule in kept]


def _began(idle: Finding, record: Record) -> bool:
    """Were the units of a finding dead before the first step?"""
    return idle.layer is not None and record.probes[0].dead.get(idle.layer, 0.0) >= IDLE


def _passes_nothing(idle: Finding, record: Record) -> bool:
    """Is a whole layer dead, and not because the signal had faded on its way there?"""
    return idle.figures["share"] >= 0.9 and not _faded(record.probes[-1])


def _faded(figures: Figures) -> bool:
    """Is next to nothing left of the signal at the end, lost bit by bit and not at once?"""
    signals = [x.signal for x in figures.layers.values() if math.isfinite(x.signal)]
    if not signals or signals[-1] >= NEGLIGIBLE * signals[0]:
        return False
    for before, after in itertools.pairwise(signals):
        if before < NEGLIGIBLE * signals[0]:
            break
        if after < NEGLIGIBLE * before:
            return False
    return True


def _left_dead(record: Record) -> bool:
    """Is an explosion over, in a network that is not deep? It was that of the weights which a step has left, as are the
    dead units that stay; in a deep network it is the reason why they died."""
    now = dataclasses.replace(record, probes=record.probes[-2:])
    return len(record.probes[-1].layers) < DEPTH and exploding(now) is None
