"""`Decision`: why something is part of a strategy, or is not."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Decision:
    """Why something is part of the strategy, or is not.

    Attributes:
        kind: of the step.
        taken: whether it is done.
        reason: in words, with the figures that decided.
    """

    kind: str
    taken: bool
    reason: str
