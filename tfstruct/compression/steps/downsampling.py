"""`DownsampleEarly`: fewer positions in an early stage."""

import dataclasses

from tfstruct.compression.alternatives.alternative import Alternative, Part
from tfstruct.compression.decision import Decision
from tfstruct.compression.outcome import Outcome
from tfstruct.compression.outlook import Outlook
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.steps.edits import trained_after
from tfstruct.compression.steps.step import Choices, Proposal, Step
from tfstruct.errors import PlanError
from tfstruct.surgery import downsample_early


@dataclasses.dataclass(frozen=True)
class EarlyDownsampling(Choices):
    """Whether the first stage works on fewer positions.

    Attributes:
        early: whether that may be chosen.
    """

    place = 1

    early: bool = False

    @classmethod
    def of(cls, task) -> "EarlyDownsampling":
        try:
            downsample_early(task.model)
        except PlanError:
            return cls(early=False)
        return cls(early=True)

    @property
    def distributions(self) -> dict:
        from optuna.distributions import CategoricalDistribution

        return {"early": CategoricalDistribution((False, True))} if self.early else {}

    def steps(self, point) -> tuple[Step, ...]:
        return (DownsampleEarly(),) if point.get("early") else ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownsampleEarly(Step):
    """Moves strides to an earlier convolution (`surgery.downsample_early`), and trains the model.

    Attributes:
        layer: which one, by name or path; None: the first where it is possible.
    """

    kind = "downsample_early"
    share = 0.15
    place = 1
    makes_room = True
    doing = "downsampling early"
    choices = EarlyDownsampling

    layer: str | None = None

    @classmethod
    def propose(cls, outlook: Outlook) -> Proposal:
        """Fewer positions in the first stage, where channels cannot meet a limit that depends on positions."""

        def refused(why: str) -> Proposal:
            return Proposal(decisions=(Decision(cls.kind, False, why),))

        if not {*outlook.sizing.missed} & {"macs", "latency_us", "peak_memory"}:
            return refused("channels are enough for what would get smaller by it")
        try:
            made = downsample_early(outlook.task.model)
        except PlanError as error:
            return refused(str(error))
        sizing = outlook.sizes(made.model)
        if sizing.least is not None:
            return refused("channels are not enough with it either")
        layer, whence = made.details["layer"], ", ".join(made.details["moved_from"])
        why = f"channels alone do not meet the budget; with the strides of {whence} in {layer} they do"
        return Proposal((cls(layer=layer, reason=why),), (Decision(cls.kind, True, why),), sizing)

    @classmethod
    def parts(cls, task) -> tuple[Part, ...]:
        try:
            details = downsample_early(task.model).details
        except PlanError:
            return ()
        layer, ends = details["layer"], details["moved_from"]
        fewer = Alternative(f"strides of {', '.join(ends)} in {layer}", {"layer": layer})
        return (Part.of(f"positions from {layer}", cls.kind, [fewer], [layer, *ends]),)

    @classmethod
    def assembled(cls, chosen) -> tuple[Step, ...]:
        return tuple(cls(**one.settings) for one in chosen.values())

    def edit(self, model):
        return downsample_early(model, self.layer).model

    def run(self, context: StepContext) -> Outcome:
        return trained_after(context, self, downsample_early(context.model, self.layer))
