"""`Stage`: a step that was carried out, in words and figures."""

import dataclasses
import json
from collections.abc import Mapping

from tfstruct.compression.candidate import Candidate
from tfstruct.compression.steps.step import Step


@dataclasses.dataclass(frozen=True)
class Stage:
    """A step that was carried out.

    Attributes:
        step: what was to be done, and why.
        changes: (layer, what was done to it), in order.
        skipped: (layer, why it was left alone).
        candidate: the figures afterwards.
        history: the figures of training, one dict an epoch.
        details: the report of what carried it out, plain data: of `PruneChannels`, `QuantizeAware`, an edit.
        seconds: how long it took.
    """

    step: Step
    changes: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...]
    candidate: Candidate
    history: tuple[Mapping[str, float], ...] = ()
    details: Mapping = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self):
        for name in ("changes", "skipped"):
            object.__setattr__(self, name, tuple((str(layer), str(what)) for layer, what in getattr(self, name)))
        object.__setattr__(self, "history", tuple(self.history))
        object.__setattr__(self, "details", json.loads(json.dumps(self.details)))

    def __str__(self) -> str:
        lines = [f"{self.step}: {self.step.reason}" if self.step.reason else str(self.step)]
        lines += [f"  {layer}: {what}" for layer, what in self.changes]
        lines += [f"  {layer}: left alone, {why}" for layer, why in self.skipped]
        return "\n".join([*lines, f"  -> {self.candidate}"])

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "step": self.step.to_dict(), "candidate": self.candidate.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping) -> "Stage":
        parts = {"step": Step.from_dict(data["step"]), "candidate": Candidate.from_dict(data["candidate"])}
        return cls(**{**data, **parts})
