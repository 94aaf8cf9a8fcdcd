"""Several layers as one."""

import dataclasses

from tfstruct.compression.outcome import Outcome
from tfstruct.compression.steps.edits import trained_after
from tfstruct.compression.steps.step import Step
from tfstruct.compression.work import Work
from tfstruct.surgery import share_layers, suggest_sharing


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareLayers(Step):
    """Makes one layer of several that are alike (`surgery.share_layers`), and trains it.

    Attributes:
        groups: lists of names; None: those that `surgery.suggest_sharing` finds by their weights.
        threshold: of that, in (0, 1].
        how: `"mean"` or `"first"`.
    """

    kind = "share_layers"
    share = 0.3

    groups: tuple[tuple[str, ...], ...] | None = None
    threshold: float = 0.9
    how: str = "mean"

    def run(self, work: Work) -> Outcome:
        groups = self.groups
        if groups is None:
            found = suggest_sharing(work.model, threshold=self.threshold)
            groups = found.groups
            if not groups:
                return Outcome(work.model, skipped=[(work.model.name, str(found))])
        return trained_after(work, self, share_layers(work.model, groups, how=self.how))
