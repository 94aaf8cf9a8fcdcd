"""What every call from model to model hands back."""

import dataclasses
from typing import Any, TypeVar

from tfstruct.reporting.report import Report
from tfstruct.reporting.tables import Sheet

Model = TypeVar("Model")


@dataclasses.dataclass(frozen=True)
class Result:
    """A new model, and the report of how it was made.

    What the report has can be read here too: `result.changes` is `result.report.changes`, `print(result)` prints the
    report, and a notebook shows its table.

    Attributes:
        model: the new `keras.Model`; the one that was given is as it was.
        report: a `Report`: what was done, and what was left alone and why.
    """

    model: Any
    report: Report

    def __getattr__(self, name: str) -> Any:
        # Only for names that are not found here; the report is not there yet while a copy is being made.
        if name.startswith("__") or name in ("model", "report"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.report, name)

    def __str__(self) -> str:
        return str(self.report)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@dataclasses.dataclass(frozen=True)
class ChangeReport(Report):
    """What was done to the layers of a model.

    Attributes:
        title: what was done, in one line.
        changes: (layer or weight, what was done to it), in order.
        skipped: (layer or weight, why nothing was done).
    """

    title: str
    changes: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def sheet(self) -> Sheet:
        return Sheet(self.title, ("layer", "what was done"), self.changes, left_alone=self.skipped)


def carrying(model: Model, report: Report) -> Model:
    """The model, read like a `Result`: `model.report`, and `model.model`, the model itself or that of a twin.

    Calls that hand back a plain `keras.Model` to go on with hand it back like this. Files do not keep the report.
    """
    # Not through Keras, which would look for layers in them.
    object.__setattr__(model, "report", report)
    if not hasattr(model, "model"):
        object.__setattr__(model, "model", model)
    return model
