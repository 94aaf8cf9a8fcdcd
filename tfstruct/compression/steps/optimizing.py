"""`Optimize`: removes what does not change the function."""

import dataclasses

from tfstruct.compression.decision import Decision
from tfstruct.compression.outcome import Outcome
from tfstruct.compression.outlook import Outlook
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.steps.step import Choices, Proposal, Step
from tfstruct.reporting.tables import counted
from tfstruct.surgery import optimize_inference, remove_redundant, shrink


@dataclasses.dataclass(frozen=True)
class _Always(Choices):
    place = -1

    def steps(self, point) -> tuple[Step, ...]:
        return (Optimize(),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimize(Step):
    """Takes out what computes nothing: redundant layers (`surgery.remove_redundant`) and channels without effect
    (`surgery.shrink`). Outputs stay equal.

    Attributes:
        fold: all of `surgery.optimize_inference`, which folds batch norms too: for a model that is not trained again.
    """

    kind = "optimize"
    place = 0
    choices = _Always

    fold: bool = False

    @classmethod
    def propose(cls, outlook: Outlook) -> Proposal:
        if outlook.task.settings.epochs:
            why = "layers and channels without effect go first; batch norms stay for training, the converter folds them"
        else:
            why = "all that changes nothing goes, and batch norms are folded: nothing is trained afterwards"
        step = cls(fold=not outlook.task.settings.epochs, reason=why)
        return Proposal((step,), (Decision(cls.kind, True, why),))

    def run(self, context: StepContext) -> Outcome:
        if self.fold:
            made = optimize_inference(context.model)
            return Outcome(made.model, made.changes, made.skipped)
        made = remove_redundant(context.model, keep_dropout=True)
        shrunk = shrink(made.model)
        gone = [
            (layer, f"{counted(len(units), 'channel')} without effect removed")
            for layer, units in shrunk.removed.items()
        ]
        gone += [(branch.join, f"input {branch.index} cut: {branch.why}") for branch in shrunk.branches]
        changes = [*made.changes, *gone]
        return Outcome(shrunk.model if changes else context.model, changes, made.skipped)
