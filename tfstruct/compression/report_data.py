"""What a compression found, as plain data: figures before and after, every step, what was decided against."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from tfstruct.compression.budget import Budget, Limits
from tfstruct.compression.candidate import Candidate
from tfstruct.compression.decision import Decision
from tfstruct.compression.mistakes import Mistakes
from tfstruct.compression.search.pareto import costs, front
from tfstruct.compression.stage import Stage
from tfstruct.convert.runtime import Port
from tfstruct.errors import ArgumentError, DataError
from tfstruct.reporting import OpenedReport, Sheet
from tfstruct.untrusted import json_text

if TYPE_CHECKING:
    from tfstruct.analyze import Sensitivity

_FORMAT = 1
_COLUMNS = ("figure", ("original", ">"), ("plain int8", ">"), ("result", ">"), ("of plain int8", ">"))
_SCORES = {"top1_agreement": "top-1 equal to the original", "sqnr_db": "SQNR to the original, dB"}
_ROWS = (
    ("params", "parameters"), ("macs", "MACs"), ("tflite_bytes", "file, bytes"), ("gzip_bytes", "file, gzipped"),
    ("peak_memory", "peak activations, bytes"), ("arena_bytes", "arena, bytes"), ("latency_us", "latency, µs"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ReportData(OpenedReport):
    """What one compression found.

    Attributes:
        model: the name of the model.
        budget: as it was asked.
        limits: the same in absolute figures.
        original: the model as it was given, as a float32 file.
        plain: its int8 file by post-training quantization: what a user has without all this.
        result: the model and file that were handed back.
        decisions: what the strategy does and does not, with reasons.
        stages: what was carried out, in order.
        candidates: every model that was measured on the way, the result too.
        widths: layer -> channels that it made before and makes now; 0 where it is gone.
        test: the metric on the test set, by `original`, `plain` and `result`; empty where none was given.
        settings: epochs, seed and the like, plain data.
        processor: where latencies were measured.
        versions: of tfstruct, Keras and TensorFlow.
        seconds: how long all of it took.
        warnings: what a user should know.
        data: how much of it there was: `train`, `validation` and, where one was given, `test`, in words.
        ports: `inputs` and `outputs` of the file.
        mistakes: where the file goes wrong on the validation data.
        sensitivity: what the original loses without a share of the channels of each group.
    """

    model: str
    budget: Budget
    limits: Limits
    original: Candidate
    plain: Candidate
    result: Candidate
    decisions: tuple[Decision, ...] = ()
    stages: tuple[Stage, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    widths: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    test: Mapping[str, float] = dataclasses.field(default_factory=dict)
    settings: Mapping = dataclasses.field(default_factory=dict)
    processor: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ports: Mapping[str, tuple[Port, ...]] = dataclasses.field(default_factory=dict)
    mistakes: Mistakes | None = None
    sensitivity: "Sensitivity | None" = None

    @property
    def met(self) -> bool:
        """Whether the budget is met."""
        return not self.limits.misses(self.result)

    def front(self, objectives: Sequence[str] = ("quality", "tflite_bytes", "macs")) -> tuple[Candidate, ...]:
        """The candidates on the Pareto front: no other one is at least as good in all objectives and better in one.
        Of all but `"quality"` less is better; candidates without a figure are left out."""
        known = [one for one in self.candidates if None not in [getattr(one, name) for name in objectives]]
        return tuple(known[i] for i in front([costs(one, objectives) for one in known]))

    def rows(self) -> list[tuple[str, ...]]:
        """(figure, original, plain int8, result, share of plain int8), as text."""
        three = (self.original, self.plain, self.result)
        rows = [(f"{self.original.metric}, validation", *(f"{one.quality:.4g}" for one in three), "")]
        if self.test:
            tested = (f"{self.test[name]:.4g}" for name in ("original", "plain", "result"))
            rows.append((f"{self.original.metric}, test", *tested, ""))
        for name in dict.fromkeys(name for one in three for name in one.scores):
            rows.append((_SCORES.get(name, name), *(_text(one.scores.get(name), ".4g") for one in three), ""))
        for name, label in _ROWS:
            values = [getattr(one, name) for one in three]
            if values[2] is not None:
                share = f"{values[2] / values[1]:.1%}" if values[1] else ""
                rows.append((label, *(_text(value, ",.0f") for value in values), share))
        return rows

    def _title(self) -> str:
        said = "met" if self.met else f"missed: {'; '.join(self.limits.misses(self.result))}"
        return f"{self.model}: budget ({self.budget}) {said}"

    def sheet(self) -> Sheet:
        return Sheet(self._title(), _COLUMNS, self.rows(), notes=self.warnings)

    def __str__(self) -> str:
        done = [f"{'does' if one.taken else 'does not'} {one.kind}: {one.reason}" for one in self.decisions]
        done += [line for stage in self.stages for line in str(stage).splitlines()]
        warnings = [f"warning: {one}" for one in self.warnings]
        return dataclasses.replace(self.sheet(), notes=[*done, *warnings, *self.layer_notes]).text()

    def to_dict(self) -> dict:
        return {"format": _FORMAT, **super().to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping) -> Self:
        if data.get("format") != _FORMAT:
            raise ArgumentError(
                f"Expected the report of a compression, format {_FORMAT}. Received: {data.get('format')!r}."
            )
        from tfstruct.analyze import Sensitivity

        data = {name: value for name, value in data.items() if name != "format"}
        parts = {name: Candidate.from_dict(data[name]) for name in ("original", "plain", "result")}
        return cls(
            **{
                **data,
                **parts,
                "budget": Budget.from_dict(data["budget"]),
                "limits": Limits.from_dict(data["limits"]),
                "decisions": tuple(Decision(**one) for one in data["decisions"]),
                "stages": tuple(Stage.from_dict(one) for one in data["stages"]),
                "candidates": tuple(Candidate.from_dict(one) for one in data["candidates"]),
                "widths": {layer: tuple(pair) for layer, pair in data["widths"].items()},
                "warnings": tuple(data["warnings"]),
                "opened": tuple(data.get("opened", ())),
                "ports": {side: tuple(map(Port.from_dict, ports)) for side, ports in data["ports"].items()},
                "mistakes": None if data["mistakes"] is None else Mistakes.from_dict(data["mistakes"]),
                "sensitivity": None if data["sensitivity"] is None else Sensitivity.from_dict(data["sensitivity"]),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        return json_text.read(text, cls.from_dict, DataError, "A report of a compression")


def _text(value, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
