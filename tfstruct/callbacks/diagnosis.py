"""What `Diagnose` found: findings with figures and advice, as text, table, JSON and picture."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from tfstruct.callbacks.probe import Figures
from tfstruct.reporting import Plotted, Report, Sheet
from tfstruct.reporting.figures import logarithmic
from tfstruct.reporting.tables import counted


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that goes wrong.

    Attributes:
        symptom: one of `"nan"`, `"exploding_gradients"`, `"vanishing_gradients"`, `"dead_units"`, `"saturated_units"`,
            `"learning_rate_too_high"`, `"learning_rate_too_low"`, `"overfitting"`, `"plateau"`.
        message: what was seen, in words, with the figures.
        advice: what to try, the most likely remedy first.
        layer: path of the layer it is about, None where it is about the whole run.
        step: steps done when it was first seen.
        figures: the numbers that the finding rests on.
    """

    symptom: str
    message: str
    advice: tuple[str, ...]
    layer: str | None = None
    step: int | None = None
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __str__(self):
        lines = [f"{self.symptom}{f' at {self.layer}' if self.layer else ''}: {self.message}"]
        return "\n".join([*lines, *(f"  try: {text}" for text in self.advice)])


@dataclasses.dataclass(frozen=True)
class Diagnosis(Plotted, Report):
    """A run, looked at. `plot` draws losses, gradient norms by layer and shares of dead units over the steps.

    Attributes:
        model: its name.
        steps: how many were done.
        findings: causes before consequences; empty for a healthy run.
        probes: what each probe saw.
        losses: (step, mean training loss since the entry before).
        epochs: (step, training loss, validation loss or None) at the end of each.
        notes: what could not be looked at, and why.
        lagging: how far statistics of batch norms lag behind, and what to do; empty where they do not.
    """

    model: str
    steps: int
    findings: tuple[Finding, ...]
    probes: tuple[Figures, ...]
    losses: tuple[tuple[int, float], ...]
    epochs: tuple[tuple[int, float, float | None], ...]
    notes: tuple[str, ...] = ()
    lagging: tuple[str, ...] = ()

    _panels: ClassVar[int] = 3

    @property
    def symptoms(self) -> tuple[str, ...]:
        """The symptoms found, causes first."""
        return tuple(finding.symptom for finding in self.findings)

    def _title(self) -> str:
        looks = f"{counted(self.steps, 'step')}, {counted(len(self.probes), 'probe')}"
        return f"{self.model}: {looks}, {len(self.findings) or 'nothing'} found"

    def __str__(self) -> str:
        lines = [line for finding in self.findings for line in str(finding).splitlines()]
        return Sheet(self._title(), notes=[*lines, *self._below()]).text()

    def _below(self) -> list[str]:
        return [*self.lagging, *(f"not looked at: {note}" for note in self.notes)]

    def sheet(self) -> Sheet:
        columns = ("symptom", "layer", ("step", ",d"), "seen", "try")
        rows = [
            (one.symptom, one.layer or "", "" if one.step is None else one.step, one.message, "; ".join(one.advice))
            for one in self.findings
        ] or [("none", "", "", "nothing found", "")]
        return Sheet(self._title(), columns, rows, notes=self._below())

    def _size(self) -> tuple[float, float]:
        return 13, 4

    def _draw(self, losses, gradients, dead) -> None:
        losses.plot(*_columns(self.losses), label="training")
        losses.plot([p.step for p in self.probes], [p.loss for p in self.probes], ".", label="kept batch")
        losses.plot(*_columns([(s, v) for s, _, v in self.epochs if v is not None]), label="validation")
        losses.set_title("loss")
        names = list(self.probes[-1].layers) if self.probes else []
        for i, name in enumerate(names):
            shade = i / max(len(names) - 1, 1)  # the first layer is blue, the last one orange
            curve = [(p.step, p.layers[name].gradient) for p in self.probes if name in p.layers]
            label = name if len(names) <= 12 or i in (0, len(names) - 1) else None
            colour = (0.9 * shade, 0.45 + 0.17 * shade, 0.7 * (1 - shade))
            gradients.plot(*_columns(curve), ".-", color=colour, label=label, linewidth=0.8)
        if any(f.gradient > 0 for p in self.probes for f in p.layers.values()):
            logarithmic(gradients, "y")
        gradients.set_title("gradient norm by layer")
        for name in dict.fromkeys(name for p in self.probes for name in p.dead):
            dead.plot(*_columns([(p.step, p.dead[name]) for p in self.probes if name in p.dead]), ".-", label=name)
        dead.set(title="share of dead units", ylim=(-0.02, 1.02))
        for axis in (losses, gradients, dead):
            axis.set_xlabel("step")
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=7)


def _columns(pairs) -> tuple[tuple, ...]:
    return tuple(zip(*pairs, strict=True)) if pairs else ((), ())
