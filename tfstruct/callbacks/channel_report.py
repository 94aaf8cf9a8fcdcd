"""What pruning of channels did: widths before and after, costs, and what was left alone."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from tfstruct.reporting import OpenedReport, Plotted, Sheet
from tfstruct.reporting.figures import LIGHT


@dataclasses.dataclass(frozen=True)
class Widths:
    """A group of coupled channels: its name, the layers that make them, and how many channels are not zero."""

    name: str
    makers: tuple[str, ...]
    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class ChannelReport(Plotted, OpenedReport):
    """The channels at zero, and what the model costs once `surgery.shrink` has removed them.

    `plot` draws the channels of each group before and after, and the share at zero over the steps.

    Attributes:
        budget: as it was asked.
        limits: the same in absolute figures; a share stays a share.
        criterion, scope, regularize: the settings.
        groups: one row for each group that was pruned.
        left_alone: (group, why it was not).
        before, after: the costs by name; after: without the channels that are zero.
        history: (step, share of the way to the budget, share of channels at zero), each time channels were chosen.
        complete: whether the schedule has come to its end.
        notes: what a user should know, in words.
    """

    budget: float | Mapping[str, float]
    limits: float | Mapping[str, float]
    criterion: str
    scope: str
    regularize: str
    groups: tuple[Widths, ...]
    left_alone: tuple[tuple[str, str], ...]
    before: Mapping[str, float]
    after: Mapping[str, float]
    history: tuple[tuple[int, float, float], ...]
    complete: bool
    notes: tuple[str, ...] = ()

    _derived: ClassVar[tuple[str, ...]] = ("channels", "met")
    _panels: ClassVar[int] = 2

    @property
    def channels(self) -> float:
        """The share of the channels of `groups` that are zero."""
        return 1 - sum(row.after for row in self.groups) / sum(row.before for row in self.groups)

    @property
    def met(self) -> bool:
        """Whether the budget is met. One share for all groups is at the end, as nearly as widths allow."""
        if isinstance(self.limits, Mapping):
            return all(self.after.get(name, float("inf")) <= limit for name, limit in self.limits.items())
        return self.complete

    def _title(self) -> str:
        zeros = sum(row.before - row.after for row in self.groups)
        asked = ", ".join(f"{name} {value:,.0f}" for name, value in self.limits.items()) if isinstance(
            self.limits, Mapping
        ) else f"{self.limits:.4g} of every group"  # fmt: skip
        return (
            f"{zeros:,} of {sum(row.before for row in self.groups):,} channels are zero; budget ({asked}) "
            f"{'met' if self.met else 'not met'} ({self.criterion}, {self.scope}, {self.regularize})"
        )

    def sheet(self) -> Sheet:
        columns = ("group", ("channels before", ",d"), ("after", ",d"), "layers")
        rows = [(row.name, row.before, row.after, ", ".join(row.makers)) for row in self.groups]
        facts = [
            (name, f"{self.before[name]:,.0f} -> {value:,.0f} ({value / self.before[name]:.1%} left)")
            for name, value in self.after.items()
        ]
        return Sheet(self._title(), columns, rows, left_alone=self.left_alone, facts=facts, notes=self.notes)

    def _size(self) -> tuple[float, float]:
        return 9, 1 + 0.3 * max(len(self.groups), 7)

    def _draw(self, widths, over_time) -> None:
        names = [row.name for row in self.groups][::-1]
        widths.barh(names, [row.before for row in self.groups][::-1], color=LIGHT, label="before")
        widths.barh(names, [row.after for row in self.groups][::-1], height=0.5, label="after")
        widths.set(xlabel="channels")
        widths.legend()
        steps = [step for step, _, _ in self.history]
        over_time.step(steps, [progress for _, progress, _ in self.history], where="post", label="way to the budget")
        over_time.plot(steps, [zero for _, _, zero in self.history], "o", markersize=3, label="channels at zero")
        over_time.set(xlabel="step", ylabel="share", ylim=(0, 1.05))
        over_time.legend()
