"""`DropBlocks`: removes the branches of residual blocks."""

import dataclasses
from collections.abc import Sequence

from tfstruct.analyze import Costs
from tfstruct.compression.alternatives.alternative import Alternative, Part
from tfstruct.compression.decision import Decision
from tfstruct.compression.outcome import Outcome
from tfstruct.compression.outlook import Outlook
from tfstruct.compression.sizing import Sizing
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.steps.edits import trained_after
from tfstruct.compression.steps.step import Choices, Proposal, Step
from tfstruct.compression.task import Task
from tfstruct.graph import trace
from tfstruct.surgery import drop_blocks, residual_blocks

_IDLE = 0.02  # 1 - cosine of a block's output and its shortcut: it does next to nothing
_TRIED = 3  # blocks at a time
_MOST = 3  # blocks that a search drops


@dataclasses.dataclass(frozen=True)
class BlockCount(Choices):
    """How many residual blocks are dropped.

    Attributes:
        blocks: the most.
    """

    place = 2

    blocks: int = 0

    @classmethod
    def of(cls, task) -> "BlockCount":
        return cls(min(sum(not block.obstacle for block in residual_blocks(task.model)), _MOST))

    @property
    def distributions(self) -> dict:
        from optuna.distributions import IntDistribution

        return {"blocks": IntDistribution(0, self.blocks)} if self.blocks else {}

    def steps(self, point) -> tuple[Step, ...]:
        return (DropBlocks(count=point["blocks"]),) if point.get("blocks") else ()


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
    place = 2
    makes_room = True
    doing = "dropping blocks"
    choices = BlockCount

    count: int | None = None
    blocks: tuple[str, ...] | None = None
    criterion: str = "cosine"

    @classmethod
    def propose(cls, outlook: Outlook) -> Proposal:
        """Drops idle residual blocks. If channels cannot meet the budget, drops more: among the three cheapest by
        (change / cost), the one that leaves the largest network."""
        task, sizing = outlook.task, outlook.sizing
        free = [block.join for block in residual_blocks(task.model) if not block.obstacle]
        if not sizing.wanted or not free:
            why = "there is no residual block that could go" if sizing.wanted else "the budget does not ask for it"
            return Proposal(decisions=(Decision(cls.kind, False, why),))
        importance = drop_blocks(task.model, task.some_data, count=1).details["importance"]
        order = sorted(importance, key=importance.get)

        def sized(gone: Sequence[str]):
            return outlook.sizes(drop_blocks(task.model, blocks=gone).model)

        idle = [join for join in order if importance[join] < _IDLE]
        gone = list(idle)
        if gone:
            sizing = sized(gone)
        ranked = [join for join in order if join not in gone]
        if sizing.least is not None:
            worth = _saved(task, ranked, sizing)
            ranked.sort(key=lambda join: importance[join] / worth[join])
        while sizing.least is not None and ranked:
            tried = {join: sized([*gone, join]) for join in ranked[:_TRIED]}
            best = max(tried, key=lambda join: tried[join].capacity)  # 0 for those that do not meet the budget
            gone, sizing = [*gone, best], tried[best]
            ranked.remove(best)
        if not gone:
            why = f"the least important, {order[0]}, changes what passes it by {importance[order[0]]:.3f} (1 - cosine)"
            return Proposal(decisions=(Decision(cls.kind, False, why),))
        named = ", ".join(f"{join} ({importance[join]:.3f})" for join in gone)
        why = f"these change least of what passes them (1 - cosine): {named}"
        if gone != idle:
            why = f"channels alone do not meet the budget; these change least for what they cost (1 - cosine): {named}"
        step = cls(blocks=tuple(gone), reason=why, optional=gone == idle)
        return Proposal((step,), (Decision(cls.kind, True, why),), sizing)

    @classmethod
    def parts(cls, task) -> tuple[Part, ...]:
        return tuple(
            Part.of(
                f"block {block.join}", cls.kind, [Alternative("dropped", {"block": block.join})],
                [*block.branch, block.join],
            )
            for block in residual_blocks(task.model) if not block.obstacle
        )  # fmt: skip

    @classmethod
    def assembled(cls, chosen) -> tuple[Step, ...]:
        return (cls(blocks=tuple(one.settings["block"] for one in chosen.values())),) if chosen else ()

    def edit(self, model):
        return drop_blocks(model, blocks=self.blocks).model

    def run(self, context: StepContext) -> Outcome:
        count = 1 if self.count is None and self.blocks is None else self.count
        made = drop_blocks(
            context.model,
            context.task.some_data,
            count=count,
            blocks=self.blocks,
            criterion=self.criterion,
            loss=context.task.aim.loss,
        )
        return trained_after(context, self, made)


def _saved(task: Task, joins: Sequence[str], sizing: Sizing) -> dict[str, float]:
    """Block -> the largest share that dropping it saves of a figure that channels cannot meet. Multiply-accumulates
    stand for latency."""
    names = tuple({"macs" if name == "latency_us" else name for name in sizing.missed or sizing.wanted})
    whole = Costs(task.graph, names)()

    def share(join: str) -> float:
        left = Costs(trace(drop_blocks(task.model, blocks=[join]).model), names)()
        return max(1 - left[name] / whole[name] for name in names)

    return {join: max(share(join), 1e-9) for join in joins}
