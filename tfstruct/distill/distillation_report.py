"""What a student was taught."""

import dataclasses
import json


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
class DistillationReport:
    """What a student was taught, and how far its losses fell.

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
            f"{self.student} learned from {self.teacher} for {self.steps} steps, "
            f"{1 - self.student_loss_weight:.0%} of the loss"
        )

    def _rows(self) -> list[tuple[str, ...]]:
        ends = [[figures.get(loss.name) for _, figures in self.history] for loss in self.losses]
        return [
            (loss.name, f"{loss.weight:g}", *(f"{v[i]:.4g}" if v else "" for i in (0, -1)), loss.where)
            for loss, v in zip(self.losses, ends, strict=True)
        ]

    def __str__(self) -> str:
        lines = [
            f"  {name}, weight {weight}: {first} -> {last}; {where}"
            for name, weight, first, last, where in self._rows()
        ]
        return "\n".join([self._title(), *lines])

    def table(self):
        """A rich table of the losses: weight, first and last mean, layers."""
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left")
        for column in ("loss", "weight", "first", "last", "layers"):
            table.add_column(column, justify="left" if column in ("loss", "layers") else "right")
        for row in self._rows():
            table.add_row(*row)
        return table

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        data = dataclasses.asdict(self)
        return {**data, "history": [{"step": step, **figures} for step, figures in self.history]}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def plot(self):
        """A matplotlib figure: each loss over the steps."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3.5), layout="constrained")
        axes = figure.subplots()
        for name in dict.fromkeys(name for _, figures in self.history for name in figures):
            points = [(step, figures[name]) for step, figures in self.history if name in figures]
            axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set(xlabel="step", ylabel="loss", title=self._title())
        if self.history:
            axes.legend()
        return figure
