"""What every call from model to model hands back."""

import dataclasses
from typing import Any

from tfstruct.reporting.report import Report


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
