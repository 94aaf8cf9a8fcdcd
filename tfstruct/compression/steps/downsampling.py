"""Fewer positions in an early stage."""

import dataclasses

from tfstruct.compression.outcome import Outcome
from tfstruct.compression.steps.edits import trained_after
from tfstruct.compression.steps.step import Step
from tfstruct.compression.work import Work
from tfstruct.surgery import downsample_early


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownsampleEarly(Step):
    """Moves strides to an earlier convolution (`surgery.downsample_early`), and trains the model.

    Attributes:
        layer: which one, by name or path; None: the first where it is possible.
    """

    kind = "downsample_early"
    share = 0.15

    layer: str | None = None

    def run(self, work: Work) -> Outcome:
        return trained_after(work, self, downsample_early(work.model, self.layer))
