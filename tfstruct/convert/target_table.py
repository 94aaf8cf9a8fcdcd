"""`TargetTable`: one file against several devices."""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

from tfstruct.convert.devices.device import NOBODY, VERDICTS, together
from tfstruct.convert.target_report import TargetReport, cell
from tfstruct.reporting import Report, Sheet
from tfstruct.reporting.tables import counted, named

_SHORT = {True: "yes", False: "NO", None: "?"}


@dataclasses.dataclass(frozen=True)
class TargetTable(Report):
    """Operators against devices: what of a file runs where.

    Attributes:
        reports: one a device, in the order of the columns; see `TargetReport`.
    """

    reports: tuple[TargetReport, ...]

    _derived: ClassVar[tuple[str, ...]] = ("fits", "fitting", "unfit", "unknown")

    def __getitem__(self, target: str) -> TargetReport:
        """The report of one device, by its name."""
        return {report.target: report for report in self.reports}[target]

    @property
    def fits(self) -> bool | None:
        """True if the file fits all of them, False if one refuses it; None if one is not known to take it."""
        return together(report.fits for report in self.reports)

    @property
    def fitting(self) -> tuple[str, ...]:
        """The devices that the whole file fits."""
        return self._that(True)

    @property
    def unfit(self) -> tuple[str, ...]:
        """The devices that it does not fit."""
        return self._that(False)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The devices of which it is not known."""
        return self._that(None)

    def _that(self, fits: bool | None) -> tuple[str, ...]:
        return tuple(report.target for report in self.reports if report.fits is fits)

    def problem(self) -> str:
        """One line on the devices that do not take the file, or are not known to; "" if all do."""
        said = [("do not take it", self.unfit), ("not known", self.unknown)]
        found = [f"{what}: {', '.join(names)}" for what, names in said if names]
        return f"Of {counted(len(self.reports), 'device')}, {'; '.join(found)}." if found else ""

    def sheet(self) -> Sheet:
        # A board runs the operators of its runtime, which has a column if it was asked for: what a board adds is a line
        # on its memory.
        columns = [one for one in self.reports if not one.memory] or list(self.reports)
        boards = [one for one in self.reports if one.memory]
        names = dict.fromkeys(row.operator for one in self.reports for row in one.rows)
        rows = []
        for name in names:
            answers = [[row.fits for row in one.rows if row.operator == name] for one in columns]
            rows.append((name, len(answers[0]), *map(_short, answers)))
        total = ("the whole file", len(self.reports[0].rows), *(_SHORT[one.fits] for one in columns))
        facts = [(one.target, _of_board(one)) for one in boards]
        facts += [(one.target, reason) for one in columns for reason in _reasons(one)]
        header = ("operator", ("count", ",d"), *(one.target for one in columns))
        return Sheet(self._title(), header, rows, total, facts=facts, notes=self._notes())

    def _title(self) -> str:
        counts = [(self.fitting, "fit"), (self.unfit, "do not"), (self.unknown, "not known")]
        said = ", ".join(f"{len(found)} {what}" for found, what in counts if found)
        return f"operators against {counted(len(self.reports), 'device')}: {said}"

    def _notes(self) -> list[str]:
        judges: dict[str, list[str]] = {}
        for one in self.reports:
            if one.judge != NOBODY:
                judges.setdefault(one.judge, []).append(one.target)
        notes = ["yes: it runs there; NO: it does not; ?: that is not known; 2 of 3: it does for so many"]
        notes += [f"judged by {judge}: {named(names)}" for judge, names in judges.items()]
        return notes + list(dict.fromkeys(f"{one.target}: {note}" for one in self.reports for note in one.notes))

    def to_dict(self) -> dict[str, Any]:
        """`fits`, `fitting`, `unfit`, `unknown`; `operators`: operator -> device -> yes, NO, unknown, or how many of
        each; `targets`: the report of each device by its name."""
        found = super().to_dict()
        del found["reports"]
        names = dict.fromkeys(row.operator for one in self.reports for row in one.rows)
        found["operators"] = {
            name: {one.target: cell(row.fits for row in one.rows if row.operator == name) for one in self.reports}
            for name in names
        }
        return {**found, "targets": {one.target: one.to_dict() for one in self.reports}}


def _short(answers: Iterable[bool | None]) -> str:
    """A cell: "yes", "NO", "?", or of how many operators it is which: "2 of 3, 1 ?"."""
    given = list(answers)
    if len(set(given)) == 1:
        return _SHORT[given[0]]
    unknown = f", {given.count(None)} ?" if None in given else ""
    return f"{given.count(True)} of {len(given)}{unknown}"


def _of_board(report: TargetReport) -> str:
    """A board in a line: its operators in short, its memory."""
    said = [f"{counted(len(report.outside), 'operator')} without a kernel"] if report.outside else []
    said += [f"{counted(len(report.unknown), 'operator')} not known"] if report.unknown else []
    for one in report.memory:
        taken = f"{one.most / one.available:.1%} of {one.available:,} bytes" if one.most is not None else "not known"
        said.append(f"{one.name} {'NOT enough, ' if one.fits is False else ''}{taken}")
    return f"{VERDICTS[report.fits]}: {'; '.join(said)} ({report.what})"


def _reasons(report: TargetReport) -> list[str]:
    """Why operators do not fit or are not known, each reason once, with the operators that it holds for."""
    found: dict[tuple[bool | None, str], list[str]] = {}
    for row in report.rows:
        if not row.fits:
            found.setdefault((row.fits, row.why), []).append(row.operator)
    return [f"{_SHORT[fits]} {named(operators)}: {why}" for (fits, why), operators in found.items()]
