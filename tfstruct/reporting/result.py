"""What every call from model to model hands back, and every call that changes a model in place."""

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


@dataclasses.dataclass(frozen=True, eq=False)
class InPlaceReport(Report):
    """What was done to a model in place. It can be used like its `value`: `len`, `in`, `[]`, iteration, `==`, methods.

    Attributes:
        title, changes, skipped: as of `ChangeReport`.
        value: the plain data that sums it up, such as the names of the weights.
    """

    title: str
    changes: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...] = ()
    value: Any = None

    def sheet(self) -> Sheet:
        return ChangeReport(self.title, self.changes, self.skipped).sheet()

    def __getattr__(self, name: str) -> Any:
        # Only for names that are not found here; the value is not there yet while a copy is being made.
        if name.startswith("_") or name == "value":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.value, name)

    def __eq__(self, other) -> bool:
        return self.value == (other.value if isinstance(other, InPlaceReport) else other)

    def __hash__(self) -> int:
        return hash(self.value)

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __iter__(self):
        return iter(self.value)

    def __contains__(self, item) -> bool:
        return item in self.value

    def __getitem__(self, key):
        return self.value[key]


def carrying(model: Model, report: Report) -> Model:
    """The model, read like a `Result`: `model.report`, and `model.model`, the model itself or that of a twin.

    Calls that hand back a plain `keras.Model` to go on with hand it back like this. Files do not keep the report.
    """
    # Not through Keras, which would look for layers in them.
    object.__setattr__(model, "report", report)
    if not hasattr(model, "model"):
        object.__setattr__(model, "model", model)
    return model
