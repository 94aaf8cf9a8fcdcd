"""What `Diagnose` found: findings with figures and advice, as text, table, JSON and picture."""

import dataclasses
import json
import math
from collections.abc import Mapping

from tfstruct.callbacks.probe import Figures


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
class Diagnosis:
    """A run, looked at.

    Attributes:
        model: its name.
        steps: how many were done.
        findings: causes before consequences; empty for a healthy run.
        probes: what each probe saw.
        losses: (step, mean training loss since the entry before).
        epochs: (step, training loss, validation loss or None) at the end of each.
        notes: what could not be looked at, and why.
    """

    model: str
    steps: int
    findings: tuple[Finding, ...]
    probes: tuple[Figures, ...]
    losses: tuple[tuple[int, float], ...]
    epochs: tuple[tuple[int, float, float | None], ...]
    notes: tuple[str, ...] = ()

    @property
    def symptoms(self) -> tuple[str, ...]:
        """The symptoms found, causes first."""
        return tuple(finding.symptom for finding in self.findings)

    def __str__(self):
        head = f"{self.model}: {self.steps:,} steps, {len(self.probes)} probes, "
        head += "nothing found" if not self.findings else f"{len(self.findings)} found"
        return "\n".join([head, *map(str, self.findings), *(f"not looked at: {note}" for note in self.notes)])

    def to_dict(self) -> dict:
        """Plain data, fit for JSON; a number that is not finite is None."""
        return _plain(dataclasses.asdict(self))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def table(self):
        """A `rich.table.Table`, one row a finding."""
        from rich.table import Table

        table = Table(title=f"{self.model}, {self.steps:,} steps", header_style="bold", show_lines=True)
        for name in ("symptom", "layer", "step", "seen", "try"):
            table.add_column(name, overflow="fold", justify="right" if name == "step" else "left")
        for one in self.findings:
            step = "" if one.step is None else f"{one.step:,}"
            table.add_row(one.symptom, one.layer or "", step, one.message, "\n".join(one.advice))
        if not self.findings:
            table.add_row("none", "", "", "nothing found", "")
        return table

    def plot(self, path) -> None:
        """Writes a picture: losses, gradient norms by layer, share of dead units, over the steps. Needs matplotlib."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(13, 4), layout="constrained")
        FigureCanvasAgg(figure)
        losses, gradients, dead = figure.subplots(1, 3)
        losses.plot(*_columns(self.losses), label="training")
        losses.plot([p.step for p in self.probes], [p.loss for p in self.probes], ".", label="kept batch")
        losses.plot(*_columns([(s, v) for s, _, v in self.epochs if v is not None]), label="validation")
        losses.set_title("loss")
        losses.legend(fontsize=7)
        names = list(self.probes[-1].layers) if self.probes else []
        for i, name in enumerate(names):
            shade = i / max(len(names) - 1, 1)  # the first layer is blue, the last one red
            curve = [(p.step, p.layers[name].gradient) for p in self.probes if name in p.layers]
            label = name if len(names) <= 12 or i in (0, len(names) - 1) else None
            gradients.plot(*_columns(curve), ".-", color=(shade, 0.2, 1 - shade), label=label, linewidth=0.8)
        if any(f.gradient > 0 for p in self.probes for f in p.layers.values()):
            gradients.set_yscale("log")
        gradients.set_title("gradient norm by layer")
        for name in dict.fromkeys(name for p in self.probes for name in p.dead):
            dead.plot(*_columns([(p.step, p.dead[name]) for p in self.probes if name in p.dead]), ".-", label=name)
        dead.set(title="share of dead units", ylim=(-0.02, 1.02))
        for axis in (gradients, dead):
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=6)
        for axis in (losses, gradients, dead):
            axis.set_xlabel("step")
        figure.savefig(path, dpi=120)


def _columns(pairs) -> tuple[tuple, ...]:
    return tuple(zip(*pairs, strict=True)) if pairs else ((), ())


def _plain(value):
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
