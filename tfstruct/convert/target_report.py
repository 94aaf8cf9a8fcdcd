"""`TargetReport`: what of a file fits a device, and what does not."""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

from tfstruct.convert import flatbuffer
from tfstruct.convert.devices.device import Memory, together
from tfstruct.errors import ConversionError
from tfstruct.reporting import Report, Sheet
from tfstruct.reporting.tables import counted, named

_SAID = {True: "yes", False: "no", None: "unknown"}


def cell(answers: Iterable[bool | None]) -> str:
    """Answers of one kind in a word: `"yes"`, `"NO"`, `"unknown"`, or how many are which."""
    given = list(answers)
    words = {True: "yes", False: "NO", None: "unknown"}
    counts = {word: given.count(answer) for answer, word in words.items() if answer in given}
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{n} {word}" for word, n in counts.items())


@dataclasses.dataclass(frozen=True)
class Row:
    """One operator of the file and whether it fits.

    Attributes:
        operator: TensorFlow Lite's name.
        layers: the Keras layers it came from; of a file, what its tensors are named after.
        dtype: of its result.
        fits: True if the target runs it, False if not; None if that is not known.
        why: the reason if it does not or is not known, a remark if it does.
        replacement: what would fit instead; empty where nothing is known.
    """

    operator: str
    layers: tuple[str, ...]
    dtype: str
    fits: bool | None
    why: str = ""
    replacement: str = ""

    @property
    def layer(self) -> str:
        return ", ".join(self.layers) or "no layer known"


@dataclasses.dataclass(frozen=True)
class TargetReport(Report):
    """What fits a target and what does not.

    Attributes:
        target: its name.
        what: what it is.
        judge: who judged, with its version: a runtime, a compiler or a table.
        rows: one an operator, in the order of the file.
        facts: figures, e.g. `("arena", "4,352 bytes ...")`.
        notes: what the user should know.
        memory: what the file takes of a board's flash and RAM.
    """

    target: str
    what: str
    judge: str
    rows: tuple[Row, ...]
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    memory: tuple[Memory, ...] = ()

    _derived: ClassVar[tuple[str, ...]] = ("fits",)

    @property
    def fits(self) -> bool | None:
        """True if the target runs every operator and its memory holds the file, False if not; None if that is not
        known of one of them."""
        return together([*(row.fits for row in self.rows), *(one.fits for one in self.memory)])

    @property
    def outside(self) -> tuple[Row, ...]:
        """The operators that do not fit; those that only convert number formats last."""
        found = [row for row in self.rows if row.fits is False]
        return tuple(sorted(found, key=lambda row: row.operator in flatbuffer.BORDER_OPERATORS))

    @property
    def unknown(self) -> tuple[Row, ...]:
        """The operators of which it is not known whether they fit."""
        return tuple(row for row in self.rows if row.fits is None)

    def problem(self) -> str:
        """One line on what does not fit, with operators, Keras layers and replacements, else on what is not known; ""
        if all fits."""
        full = [f"{one.name} of {self.target} {one}" for one in self.memory if one.fits is False]
        said = [text for text in (self._operators_outside(), *full) if text]
        if not said and not self.fits:
            said = self._unknown()
        return f"{'; '.join(said)}." if said else ""

    def _unknown(self) -> list[str]:
        said = [f"{one.name} of {self.target} {one}" for one in self.memory if one.fits is None]
        if self.unknown:
            names = named(f"{row.operator} ({row.why})" for row in self.unknown)
            count = f"{len(self.unknown)} of {counted(len(self.rows), 'operator')}"
            said.insert(0, f"it is not known whether {count} fit {self.target}: {names}")
        return said

    def _operators_outside(self) -> str:
        seen: dict[tuple[str, str], Row] = {}
        # What stands around a float operator falls with it: it is named only where nothing else is outside.
        not_at_borders = [row for row in self.outside if row.operator not in flatbuffer.BORDER_OPERATORS]
        for row in not_at_borders or self.outside:
            seen.setdefault((row.operator, row.layer), row)
        if not seen:
            return ""
        shown = [
            f"{row.operator} (layer {row.layer}): {row.why}{f'. Use {row.replacement}' if row.replacement else ''}"
            for row in list(seen.values())[:5]
        ]
        more = f"; and {len(seen) - 5} more" if len(seen) > 5 else ""
        count = f"{len(self.outside)} of {counted(len(self.rows), 'operator')}"
        return f"{count} do not fit {self.target}: {'; '.join(shown)}{more}"

    def require(self) -> None:
        """Raises a ConversionError with `problem()` if something does not fit, or is not known to."""
        if not self.fits:
            rows = self.outside or self.unknown
            layers = dict.fromkeys(layer for row in rows for layer in row.layers)
            raise ConversionError(self.problem(), tuple(layers))

    def summary(self) -> list[tuple[str, str]]:
        """(what, value) lines without the table."""
        count = sum(row.fits is True for row in self.rows)
        lines = [("target", f"{self.target}: {self.what}"), ("judged by", self.judge)]
        lines.append(("fits", f"{_SAID[self.fits]}: {count} of {counted(len(self.rows), 'operator')}"))
        lines += list(self.facts)
        lines += [("outside", f"{r.operator} ({r.layer}): {r.why}") for r in self.outside]
        lines += [("unknown", f"{r.operator} ({r.layer}): {r.why}") for r in self.unknown]
        lines += [("note", note) for note in self.notes]
        return lines

    def sheet(self) -> Sheet:
        verdict = {True: "fits", False: "does not fit", None: "unknown whether it fits"}[self.fits]
        title = f"{self.target}: {verdict} (judged by {self.judge})"
        columns = ("operator", "Keras layer", "type", "fits", "why", "use instead")
        rows = [(r.operator, r.layer, r.dtype, cell([r.fits]), r.why, r.replacement) for r in self.rows]
        marks = {i: "bad" if row.fits is False else "weak" for i, row in enumerate(self.rows) if not row.fits}
        return Sheet(title, columns, rows, facts=self.facts, notes=self.notes, marks=marks)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "facts": dict(self.facts)}

    def __str__(self) -> str:
        return Sheet(facts=self.summary()).text()
