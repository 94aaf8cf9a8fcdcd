"""What a search found: all trials, the Pareto front, the best within the budget."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from tfstruct.compression.budget import Limits
from tfstruct.compression.candidate import Candidate
from tfstruct.compression.search.pareto import costs, front
from tfstruct.compression.search.trial import Trial
from tfstruct.errors import ArgumentError, DataError
from tfstruct.reporting import Plotted, Report, Sheet
from tfstruct.reporting.figures import GREY, RED
from tfstruct.reporting.tables import counted
from tfstruct.untrusted import json_text

_FORMAT = 1
_LABELS = {"tflite_bytes": "file, bytes", "macs": "MACs", "latency_us": "latency, µs", "params": "parameters"}


@dataclasses.dataclass(frozen=True)
class SearchReport(Plotted, Report):
    """The report of a search.

    `plot` draws quality over each other objective: trials, the Pareto front, the plain int8 file and the limits of the
    budget.

    Attributes:
        name: of the study in the database.
        storage: URL of the database.
        objectives: what was searched for: `"quality"` and fields of `Candidate` of which less is better.
        limits: the budget in absolute figures.
        original, plain: as in `CompressionReport`.
        trials: in the order of proposal.
    """

    name: str
    storage: str
    objectives: tuple[str, ...]
    limits: Limits
    original: Candidate
    plain: Candidate
    trials: tuple[Trial, ...]

    _panels: ClassVar[int] = 0

    def __post_init__(self):
        for name in ("objectives", "trials"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def measured(self) -> tuple[Trial, ...]:
        """The trials that were carried out."""
        return tuple(trial for trial in self.trials if trial.candidate is not None)

    def front(self) -> tuple[Trial, ...]:
        """The trials that no other one beats: at least as good in all objectives, and better in one. In the order of
        the last objective."""
        points = [costs(_figures(trial), self.objectives) for trial in self.measured]
        return tuple(self.measured[i] for i in sorted(front(points), key=lambda i: points[i][::-1]))

    @property
    def best(self) -> Trial | None:
        """Of the trials that meet the budget the one of the best quality; where the budget names no figure, the
        smallest file that is good enough. Where none meets it, the one that exceeds its figures least, and among
        equals the best. None where no trial was carried out."""
        return min(self.measured, key=self._rank, default=None)

    def _rank(self, trial: Trial) -> tuple:
        candidate, limits = _figures(trial), self.limits
        quality, size = costs(candidate, ("quality", "tflite_bytes"))
        good = limits.good_enough(candidate)
        order = (quality, size) if limits.figures or not good else (size, quality)
        return (limits.excess(candidate), not good, *order, trial.number)

    def rows(self) -> list[tuple[str, ...]]:
        """(trial, objectives, within the budget, strategy) of the front, as text."""
        return [
            (
                str(trial.number),
                *(f"{getattr(trial.candidate, name):{_form(name)}}" for name in self.objectives),
                "; ".join(self.limits.misses(_figures(trial))) or "met",
                ", ".join(map(str, trial.steps)),
            )
            for trial in self.front()
        ]

    def _title(self) -> str:
        left = len(self.trials) - len(self.measured)
        pruned = f", {left} of them not carried out" if left else ""
        return f"{counted(len(self.trials), 'trial')}{pruned}; {len(self.front())} on the Pareto front"

    def sheet(self) -> Sheet:
        columns = (("trial", ">"), *((self._label(name), ">") for name in self.objectives), "budget", "strategy")
        notes = [str(trial) for trial in self.trials if trial.candidate is None]
        return Sheet(self._title(), columns, self.rows(), notes=[*notes, f"best: {self.best}"])

    def _label(self, name: str) -> str:
        return f"{self.original.metric}, validation" if name == "quality" else _LABELS.get(name, name)

    def _others(self) -> list[str]:
        return [name for name in self.objectives if name != "quality"]

    def _size(self) -> tuple[float, float]:
        return 5 * len(self._others()), 4

    def _draw(self, figure) -> None:
        best, others = self.front(), self._others()
        for axis, name in zip(figure.subplots(1, len(others), squeeze=False)[0], others, strict=True):
            for label, trials, colour in (("trials", self.measured, GREY), ("Pareto front", best, None)):
                x, y = ([getattr(t.candidate, of) for t in trials] for of in (name, "quality"))
                axis.plot(x, y, "o", color=colour, label=label)
            axis.plot(getattr(self.plain, name), self.plain.quality, "x", color=RED, label="plain int8")
            if name in self.limits.figures:
                axis.axvline(self.limits.figures[name], linestyle=":", color=GREY, label="budget")
            if self.limits.quality is not None:
                axis.axhline(self.limits.quality, linestyle=":", color=GREY)
            for trial in best:
                at = (getattr(trial.candidate, name), _figures(trial).quality)
                axis.annotate(str(trial.number), at, xytext=(4, 4), textcoords="offset points", fontsize=7)
            axis.set(xlabel=self._label(name), ylabel=self._label("quality"))
            axis.legend()

    def to_dict(self) -> dict:
        return {"format": _FORMAT, **super().to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping) -> "SearchReport":
        if data.get("format") != _FORMAT:
            raise ArgumentError(f"Expected the report of a search, format {_FORMAT}. Received: {data.get('format')!r}.")
        fields = {name: value for name, value in data.items() if name != "format"}
        parts = {name: Candidate.from_dict(data[name]) for name in ("original", "plain")}
        trials = tuple(map(Trial.from_dict, data["trials"]))
        return cls(**{**fields, **parts, "limits": Limits.from_dict(data["limits"]), "trials": trials})

    @classmethod
    def from_json(cls, text: str) -> "SearchReport":
        return json_text.read(text, cls.from_dict, DataError, "A report of a search")


def _figures(trial: Trial) -> Candidate:
    assert trial.candidate is not None  # it is one of `measured`
    return trial.candidate


def _form(name: str) -> str:
    return ".4g" if name == "quality" else ",.0f"
