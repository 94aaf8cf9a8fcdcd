"""The report of a file of several functions."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tfstruct import reporting
from tfstruct.convert.report import Report
from tfstruct.convert.signatures import Unshared
from tfstruct.reporting import Sheet
from tfstruct.reporting.tables import counted, named


@dataclasses.dataclass(frozen=True)
class SignatureReport(reporting.Report):
    """What became of several models in one file.

    Attributes:
        functions: name -> the report of its conversion, as that of a file of its own: agreement with its Keras model,
            operators, latency.
        size: bytes of the file.
        gzip_size: bytes of the file after gzip -9.
        apart: bytes of the functions as files of their own.
        shared_bytes: constants that several functions read, stored once: what is saved.
        unshared: weights that functions have in common in float, and of which the file holds several forms.
    """

    functions: Mapping[str, Report]
    size: int
    gzip_size: int
    apart: int
    shared_bytes: int
    unshared: tuple[Unshared, ...] = ()

    @property
    def model(self) -> str:
        """The names of the models."""
        return ", ".join(dict.fromkeys(report.model for report in self.functions.values()))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, each with its function."""
        return tuple(f"{name}: {text}" for name, report in self.functions.items() for text in report.warnings)

    def sheet(self) -> Sheet:
        columns = (
            "function", "model", "precision", "takes", "gives", ("operators", ",d"), ("in float", ",d"),
            ("SQNR, dB", ".1f"), ("max error", ".3g"), ("verified on", ",d"), ("latency, us", ",.0f"),
        )  # fmt: skip
        rows = []
        for name, report in self.functions.items():
            figures = report.verification.figures()
            timed = report.latency[0].median_us if report.latency else None
            sqnr = figures["sqnr_db"]
            rows.append(
                (
                    name,
                    report.model,
                    report.precision,
                    ", ".join(port.name for port in report.inputs),
                    ", ".join(port.name for port in report.outputs),
                    len(report.operators),
                    len(report.float_operators),
                    "exact" if sqnr == math.inf else sqnr,
                    figures["max_abs_error"],
                    report.verification.samples,
                    timed,
                )
            )
        facts = [("shared", f"{self.shared_bytes:,} bytes of constants are stored once for several functions")]
        for one in self.unshared:
            held = " and ".join(f"{n:,}" for n in one.bytes)
            facts.append(("not shared", f"{named(one.name)}: {held} bytes: {one.why}"))
        facts += [("warning", text) for text in self.warnings]
        title = (
            f"{counted(len(rows), 'function')} in a file of {self.size:,} bytes ({self.apart:,} as files of their own)"
        )
        notes = ["figures are those of each function against its model; the file gives the same, which was checked"]
        if any(report.latency for report in self.functions.values()):
            notes.append("latency is that of the function as a file of its own")
        return Sheet(title, columns, rows, facts=facts, notes=notes)

    def to_dict(self) -> dict[str, Any]:
        """The fields, and `warnings`; `functions`: the report of each by its name."""
        return {**super().to_dict(), "warnings": list(self.warnings)}
