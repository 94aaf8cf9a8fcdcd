"""What leaves the function as it is."""

import dataclasses

from tfstruct.compression.outcome import Outcome
from tfstruct.compression.steps.step import Step
from tfstruct.compression.work import Work
from tfstruct.surgery import optimize_inference, remove_redundant, shrink


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimize(Step):
    """Takes out what computes nothing: redundant layers (`surgery.remove_redundant`) and channels without effect
    (`surgery.shrink`). Outputs stay equal.

    Attributes:
        fold: all of `surgery.optimize_inference`, which folds batch norms too: for a model that is not trained again.
    """

    kind = "optimize"

    fold: bool = False

    def run(self, work: Work) -> Outcome:
        if self.fold:
            made = optimize_inference(work.model)
            return Outcome(made.model, made.changes, made.skipped)
        made = remove_redundant(work.model, keep_dropout=True)
        shrunk = shrink(made.model)
        gone = [(layer, f"{len(units)} channels without effect removed") for layer, units in shrunk.removed.items()]
        gone += [(branch.join, f"input {branch.index} cut: {branch.why}") for branch in shrunk.branches]
        changes = [*made.changes, *gone]
        return Outcome(shrunk.model if changes else work.model, changes, made.skipped)
