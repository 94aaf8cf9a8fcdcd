"""`Trial`: one strategy of a search, with its result."""

import dataclasses
import re
from collections.abc import Mapping

from tfstruct.arguments import require_count
from tfstruct.compression.candidate import Candidate
from tfstruct.compression.execution import StrategyResult, carry_out
from tfstruct.compression.steps.step import Step
from tfstruct.compression.task import Task
from tfstruct.errors import ArgumentError

# Within the working folder: a record from elsewhere leads to no other place.
_FOLDER = re.compile(r"[\w-]+/trial-\d{4,}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A strategy of a search and its result.

    Attributes:
        number: in the order of proposal.
        steps: the strategy.
        generation: in which it was proposed; generation 0 is what `strategy="auto"` would do.
        seed: of all random numbers.
        folder: of its stages, within the working folder.
        candidate: its figures; None where it was not run.
        reason: why it was not run.
    """

    number: int
    steps: tuple[Step, ...]
    generation: int
    seed: int
    folder: str
    candidate: Candidate | None = None
    reason: str = ""

    def made(self, task: Task) -> StrategyResult:
        """The model and the file: read from the folder, or made again if they are not there."""
        return carry_out(task, self.steps, task.folder.inner(self.folder), seed=self.seed)

    def __str__(self) -> str:
        strategy = ", ".join(map(str, self.steps))
        if self.candidate is None:
            return f"trial {self.number}: {strategy}: {self.reason}"
        return f"{self.candidate}: {strategy}"

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        candidate = None if self.candidate is None else self.candidate.to_dict()
        return {**fields, "steps": [step.to_dict() for step in self.steps], "candidate": candidate}

    @classmethod
    def from_dict(cls, data: Mapping) -> "Trial":
        """The inverse of `to_dict`.

        Raises:
            ArgumentError: a number that is none, or a folder outside of the working folder.
        """
        for name in ("number", "generation", "seed"):
            require_count(name, data[name], 0)
        if not isinstance(data["folder"], str) or not _FOLDER.fullmatch(data["folder"]):
            raise ArgumentError(f"`folder` must be one that a search made. Received: {data['folder']!r}.")
        candidate = data.get("candidate")
        candidate = None if candidate is None else Candidate.from_dict(candidate)
        return cls(**{**data, "steps": tuple(map(Step.from_dict, data["steps"])), "candidate": candidate})
