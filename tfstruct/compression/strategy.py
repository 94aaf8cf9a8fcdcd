"""`decide`: a strategy put together from what the kinds of steps propose for a task."""

import dataclasses
import functools
from collections.abc import Sequence

from tfstruct.compression.decision import Decision
from tfstruct.compression.outlook import Outlook
from tfstruct.compression.sizing import choose_channels
from tfstruct.compression.steps.step import Proposal, Step, kinds
from tfstruct.compression.task import Task

Decided = tuple[tuple[Step, ...], tuple[Decision, ...]]


def decide(task: Task, given: Sequence[Step] | None = None, *, four_bits: bool = True) -> Decided:
    """The steps, in order, and why; their epochs are shared out later.

    First what costs nothing, then whole blocks and layers, then channels, and the rounding of the file last, as each of
    them changes what the next one has to work with: the order of the kinds' places. Kinds that make room are asked
    first, as the others depend on what channels can do afterwards.

    Args:
        given: the steps that the user asks for; what they leave open is filled in.
        four_bits: whether weights may have 4 bits, where nothing is given.
    """
    if given is not None:
        sizing = functools.cache(lambda: choose_channels(task, task.model))
        steps = tuple(step.completed(sizing) for step in given)
        return steps, tuple(Decision(step.kind, True, step.reason or "asked for") for step in steps)
    sizes = functools.partial(choose_channels, task, four_bits=four_bits)
    outlook = Outlook(task, sizes(task.model), sizes)
    order = [kind for kind in kinds() if kind.place is not None]
    proposals = _best_of_those({kind: kind.propose(outlook) for kind in order if kind.makes_room})
    (sizing,) = [one.sizing for one in proposals.values() if one.sizing is not None] or [outlook.sizing]
    outlook = dataclasses.replace(outlook, sizing=sizing)
    made = [proposals[kind] if kind.makes_room else kind.propose(outlook) for kind in order]
    return tuple(step for one in made for step in one.steps), tuple(why for one in made for why in one.decisions)


def _best_of_those(proposals: dict[type[Step], Proposal]) -> dict[type[Step], Proposal]:
    """The proposals of kinds that make room, with the steps of one of them at most: the one after which most of the
    network stays, the later one where that is equal."""
    rivals = [kind for kind, one in proposals.items() if one.sizing is not None]
    if len(rivals) < 2:
        return proposals
    best = max(reversed(rivals), key=lambda kind: proposals[kind].sizing.capacity)
    left = {kind: f"{proposals[kind].sizing.capacity:.0%}" for kind in rivals}
    found = dict(proposals)
    for kind in rivals:
        if kind is not best:
            why = f"{best.doing} leaves more: {left[best]} of MACs and parameters against {left[kind]} of them"
            found[kind] = Proposal(decisions=(Decision(kind.kind, False, why),))
    return found
