"""`ShareLayers`: one layer in place of several."""

import dataclasses

from tfstruct.compression.decision import Decision
from tfstruct.compression.outcome import Outcome
from tfstruct.compression.outlook import Outlook
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.steps.edits import trained_after
from tfstruct.compression.steps.step import Proposal, Step
from tfstruct.surgery import share_layers, suggest_sharing

_ALIKE = 0.95  # cosine of two layers' weights


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
    place = 3

    groups: tuple[tuple[str, ...], ...] | None = None
    threshold: float = 0.9
    how: str = "mean"

    @classmethod
    def propose(cls, outlook: Outlook) -> Proposal:
        if not {"params", "tflite_bytes"} & outlook.wanted:
            why = "sharing saves parameters only, which the budget does not ask for"
            return Proposal(decisions=(Decision(cls.kind, False, why),))
        found = suggest_sharing(outlook.task.model, threshold=_ALIKE)
        if not found.groups:
            return Proposal(decisions=(Decision(cls.kind, False, str(found)),))
        step = cls(groups=found.groups, reason=str(found).splitlines()[0], optional=True)
        return Proposal((step,), (Decision(cls.kind, True, str(found)),))

    def run(self, context: StepContext) -> Outcome:
        groups = self.groups
        if groups is None:
            found = suggest_sharing(context.model, threshold=self.threshold)
            groups = found.groups
            if not groups:
                return Outcome(context.model, skipped=[(context.model.name, str(found))])
        return trained_after(context, self, share_layers(context.model, groups, how=self.how))
