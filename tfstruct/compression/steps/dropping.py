"""Residual blocks without their branch."""

import dataclasses

from tfstruct.compression.outcome import Outcome
from tfstruct.compression.steps.edits import trained_after
from tfstruct.compression.steps.step import Step
from tfstruct.compression.work import Work
from tfstruct.surgery import drop_blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropBlocks(Step):
    """Drops the least important residual blocks (`surgery.drop_blocks`), and trains what stays.

    Attributes:
        count: how many.
        blocks: which, by the path of their Add; with `count`, from which.
        criterion: `"cosine"` or `"loss"`.
    """

    kind = "drop_blocks"
    share = 0.15

    count: int | None = None
    blocks: tuple[str, ...] | None = None
    criterion: str = "cosine"

    def run(self, work: Work) -> Outcome:
        count = 1 if self.count is None and self.blocks is None else self.count
        made = drop_blocks(
            work.model,
            work.task.some_data,
            count=count,
            blocks=self.blocks,
            criterion=self.criterion,
            loss=work.task.aim.loss,
        )
        return trained_after(work, self, made)
