"""What a student was taught."""

import dataclasses
from typing import Any

from tfstruct.reporting import Plotted, Report, Sheet, plain
from tfstruct.reporting.tables import counted


@dataclasses.dataclass(frozen=True)
class Compared:
    """One loss.

    Attributes:
        name: its class, numbered where there are several.
        layers: (student's layer, teacher's layer, how their channels were made comparable); None: the outputs.
    """

    name: str
    weight: float
    layers: tuple[tuple[str | None, str | None, str], ...]

    @property
    def where(self) -> str:
        """The layers in words."""
        said = []
        for student, teacher, how in self.layers:
            place = "outputs" if student is None else student if student == teacher else f"{student} of {teacher}"
            said.append(place if how == "as they are" else f"{place} ({how})")
        return ", ".join(said)


@dataclasses.dataclass(frozen=True)
class DistillationReport(Plotted, Report):
    """What a student was taught, and how far its losses fell. `plot` draws each loss over the steps.

    Attributes:
        student, teacher: names of the models.
        steps: of the optimizer.
        student_loss_weight: the share of the compiled loss.
        losses: what was compared.
        history: (step, mean of each loss since the step before), in `fit` by epoch; `distillation_loss` is their
            weighted sum, `student_loss` the compiled loss.
    """

    student: str
    teacher: str
    steps: int
    student_loss_weight: float
    losses: tuple[Compared, ...]
    history: tuple[tuple[int, dict[str, float]], ...]

    def _title(self) -> str:
        return (
            f"{self.student} learned from {self.teacher} for {counted(self.steps, 'step')}, "
            f"{1 - self.student_loss_weight:.0%} of the loss"
        )

    def sheet(self) -> Sheet:
        rows = []
        for loss in self.losses:
            means = [figures.get(loss.name) for _, figures in self.history]
            first, last = (means[0], means[-1]) if means else (None, None)
            rows.append((loss.name, loss.weight, first, last, loss.where))
        columns = ("loss", ("weight", "g"), ("first mean", ".4g"), ("last mean", ".4g"), "layers")
        return Sheet(self._title(), columns, rows)

    def to_dict(self) -> dict[str, Any]:
        history = [{"step": step, **figures} for step, figures in self.history]
        return {**super().to_dict(), "history": plain(history)}

    def _size(self) -> tuple[float, float]:
        return 7, 3.5

    def _draw(self, axes) -> None:
        for name in dict.fromkeys(name for _, figures in self.history for name in figures):
            points = [(step, figures[name]) for step, figures in self.history if name in figures]
            axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set(xlabel="step", ylabel="loss", title=self._title())
        if self.history:
            axes.legend()
