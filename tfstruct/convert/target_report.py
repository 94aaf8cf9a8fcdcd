"""`TargetReport`: what of a file fits a device, and what does not."""

import dataclasses
from typing import Any, ClassVar

from tfstruct.convert import flatbuffer
from tfstruct.errors import ConversionError
from tfstruct.reporting import Report, Sheet
from tfstruct.reporting.tables import counted


@dataclasses.dataclass(frozen=True)
class Row:
    """One operator of the file and whether it fits.

    Attributes:
        operator: TensorFlow Lite's name.
        layers: the Keras layers it came from; of a file, what its tensors are named after.
        dtype: of its result.
        fits: True if the target runs it.
        why: the reason if it does not, a remark if it does.
        replacement: what would fit instead; empty where nothing is known.
    """

    operator: str
    layers: tuple[str, ...]
    dtype: str
    fits: bool
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
    """

    target: str
    what: str
    judge: str
    rows: tuple[Row, ...]
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    _derived: ClassVar[tuple[str, ...]] = ("fits",)

    @property
    def fits(self) -> bool:
        """True if the target runs every operator."""
        return all(row.fits for row in self.rows)

    @property
    def outside(self) -> tuple[Row, ...]:
        """The operators that do not fit; those that only convert number formats last."""
        found = [row for row in self.rows if not row.fits]
        return tuple(sorted(found, key=lambda row: row.operator in flatbuffer.BORDER_OPERATORS))

    def problem(self) -> str:
        """One line on what does not fit, with operators, Keras layers and replacements; "" if all does."""
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
        return f"{count} do not fit {self.target}: {'; '.join(shown)}{more}."

    def require(self) -> None:
        """Raises a ConversionError with `problem()` if something does not fit."""
        if not self.fits:
            layers = dict.fromkeys(layer for row in self.outside for layer in row.layers)
            raise ConversionError(self.problem(), tuple(layers))

    def summary(self) -> list[tuple[str, str]]:
        """(what, value) lines without the table."""
        count = sum(row.fits for row in self.rows)
        lines = [("target", f"{self.target}: {self.what}"), ("judged by", self.judge)]
        lines.append(("fits", f"{'yes' if self.fits else 'no'}: {count} of {counted(len(self.rows), 'operator')}"))
        lines += list(self.facts)
        lines += [("outside", f"{r.operator} ({r.layer}): {r.why}") for r in self.outside]
        lines += [("note", note) for note in self.notes]
        return lines

    def sheet(self) -> Sheet:
        title = f"{self.target}: {'fits' if self.fits else 'does not fit'} (judged by {self.judge})"
        columns = ("operator", "Keras layer", "type", "fits", "why", "use instead")
        rows = [(r.operator, r.layer, r.dtype, "yes" if r.fits else "NO", r.why, r.replacement) for r in self.rows]
        marks = {i: "bad" for i, row in enumerate(self.rows) if not row.fits}
        return Sheet(title, columns, rows, facts=self.facts, notes=self.notes, marks=marks)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "facts": dict(self.facts)}

    def __str__(self) -> str:
        return Sheet(facts=self.summary()).text()
