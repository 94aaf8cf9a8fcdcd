"""What a report shows, as rows under columns; and these as text, rich table, HTML, Markdown and CSV."""

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from tfstruct.markup import Html, element, markdown, table, visible

_WIDTH = 140  # characters of a line of text; longer cells are folded
_LABELS = 14, 18  # characters for the labels of facts: at least, at most
_LEFT_ALONE = "left alone"
# How the marks of rows look: in a terminal, in HTML.
_STYLES = {"strong": ("bold", "strong"), "weak": ("dim", "soft"), "bad": ("red", "warning")}
_NUMBER = re.compile(r"[-+]?[\d.,]+([eE][-+]?\d+)?\s*\S{0,3}")


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table with the lines around it. A report describes itself as one; all of its forms are made here.

    Attributes:
        title: one line above the table.
        columns: names of the columns. A pair (name, format) is a column of numbers, written by that format
            specification and aligned to the right: `("size in bytes", ",d")`, `("zeros", ".1%")`; `">"` aligns text.
        rows: the values of each row. None, not known, is written as "-"; a tuple of sizes as "3 x 16", in text "3x16".
        total: a last row, set apart.
        left_alone: (name, why) of what was meant to have a row, but nothing was done to it.
        facts: (what, value) lines below the table, or instead of it.
        notes: sentences below everything.
        marks: number of a row -> how it stands out: "strong", "weak" or "bad".
    """

    title: str = ""
    columns: Sequence[str | tuple[str, str]] = ()
    rows: Sequence[Sequence] = ()
    total: Sequence = ()
    left_alone: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    marks: Mapping[int, str] = dataclasses.field(default_factory=dict)

    @property
    def header(self) -> list[str]:
        """The names of the columns; the reasons of `left_alone` have one of their own."""
        names = [one if isinstance(one, str) else one[0] for one in self.columns]
        return names + [_LEFT_ALONE] * bool(self.left_alone)

    @property
    def numbers(self) -> set[int]:
        """Which columns are aligned to the right."""
        return {i for i, one in enumerate(self.columns) if not isinstance(one, str)}

    def cells(self, row: Sequence, times: str = " x ") -> list[str]:
        """A row as text; `times` stands between sizes."""
        forms = ["" if isinstance(one, str) else one[1] for one in self.columns]
        texts = [_cell(value, form, times) for value, form in zip(row, forms, strict=True)]
        return texts + [""] * bool(self.left_alone)

    def _skipped(self) -> list[list[str]]:
        blank = [""] * (len(self.columns) - 1)
        return [[visible(name), *blank, visible(why)] for name, why in self.left_alone]

    def text(self) -> str:
        """Lines of text, for `print`; as wide as they need to be, up to 140 characters."""
        lines = [visible(self.title)] if self.title else []
        if self.rows:
            every = [self.cells(row, "x") for row in (*self.rows, *([self.total] if self.total else []))]
            lines += _aligned(self.header, every, self.numbers, "  " if self.title else "")
        lines += [f"  {visible(name)}: {_LEFT_ALONE}, {visible(why)}" for name, why in self.left_alone]
        lines += fact_lines(self.facts)
        return "\n".join([*lines, *map(visible, self.notes)])

    def rich(self):
        """A `rich.table.Table`."""
        from rich.table import Table
        from rich.text import Text

        if not self.columns:
            grid = Table(show_header=False, box=None, pad_edge=False)
            grid.add_column(style="bold", no_wrap=True)
            grid.add_column(overflow="fold")
            for what, value in (*self.facts, *(("", note) for note in self.notes)):
                grid.add_row(Text(visible(what)), Text(visible(value)), style="yellow" if what == "warning" else None)
            return grid
        below = "\n".join(
            [*(f"{visible(what)}: {visible(value)}" for what, value in self.facts), *map(visible, self.notes)]
        )
        total = self.cells(self.total) if self.total else []
        found = Table(
            title=Text(visible(self.title), style="table.title") if self.title else None,
            caption=Text(below, style="table.caption") if below else None,
            title_justify="left", caption_justify="left", header_style="bold", show_footer=bool(total),
        )  # fmt: skip
        for i, name in enumerate(self.header):
            justify: Literal["left", "right"] = "right" if i in self.numbers else "left"
            footer = Text(total[i]) if total else ""
            found.add_column(_literal(visible(name)), footer, justify=justify, overflow="fold")
        for i, row in enumerate(self.rows):
            found.add_row(*map(_literal, self.cells(row)), style=_STYLES[self.marks[i]][0] if i in self.marks else None)
        for row in self._skipped():
            found.add_row(*map(_literal, row), style="dim")
        return found

    def html(self) -> Html:
        """Elements for a page: title, table, facts, notes."""
        parts = [element("p", element("b", self.title))] if self.title else []
        if self.columns:
            total = [self.cells(self.total)] if self.total else []
            rows = [*map(self.cells, self.rows), *total, *self._skipped()]
            classes = [_STYLES[self.marks[i]][1] if i in self.marks else "" for i in range(len(self.rows))]
            classes += ["strong"] * len(total) + ["soft"] * len(self.left_alone)
            parts.append(table(rows, self.header, classes, self.numbers))
        if self.facts:
            classes = ["warning" if what == "warning" else "" for what, _ in self.facts]
            parts.append(table([(element("b", what), value) for what, value in self.facts], classes=classes))
        return Html("".join([*parts, *(element("p", note) for note in self.notes)]))

    def markdown(self) -> str:
        """A heading, a table, a list of facts, and the notes."""
        parts = [f"# {markdown(self.title)}"] if self.title else []
        if self.columns:
            rules = ["---:" if i in self.numbers else "---" for i in range(len(self.header))]
            rows = [self.cells(row) for row in (*self.rows, *([self.total] if self.total else []))]
            lines = [map(markdown, self.header), rules, *(map(markdown, row) for row in (*rows, *self._skipped()))]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        if self.facts:
            parts.append("\n".join(f"- {markdown(what)}: {markdown(value)}" for what, value in self.facts))
        return "\n\n".join([*parts, *map(markdown, self.notes)]) + "\n"

    def csv(self) -> str:
        """The table alone, numbers unrounded and without separators."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        blank = [""] * bool(self.left_alone)
        for row in (self.header, *([*row, *blank] for row in self.rows), *self._skipped()):
            writer.writerow([_harmless(value) for value in row])
        return buffer.getvalue()


def fact_lines(facts: Sequence[tuple[str, str]]) -> list[str]:
    """(what, value) as lines of text."""
    widths = [len(what) for what, _ in facts if len(what) <= _LABELS[1]]
    width = max([_LABELS[0], *widths])
    return [f"{visible(what):<{width}} {visible(value)}" for what, value in facts]


def counted(count: int, what: str, several: str = "") -> str:
    """A number and what it counts: "1 epoch", "2 epochs", "1,000 branches"."""
    return f"{count:,} {what if count == 1 else several or f'{what}s'}"


def named(names: Iterable[str], most: int = 4) -> str:
    """Names in one line, each once: "a, b, c, d and 7 more"."""
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:most]) + (f" and {len(unique) - most} more" if len(unique) > most else "")


def by_reason(what: str, reasons: Mapping[str, str]) -> list[str]:
    """A line for each reason, with all that it holds for: "stays whole: a, b: no rule knows ..."."""
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        found.setdefault(reason, []).append(name)
    return [f"{what}: {named(names)}: {reason}" for reason, names in found.items()]


def shape(sizes: Sequence[int | None], times: str = " x ") -> str:
    """Sizes in words: "3 x 3 x 16"; "?" is open."""
    return times.join("?" if size is None else str(size) for size in sizes)


def _cell(value, form: str, times: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return shape(value, times) or "-"
    return visible(value) if isinstance(value, str) else visible(format(value, form))


def _literal(text: str):
    """A cell of a rich table, in which brackets are no markup and `:names:` no pictures."""
    from rich.text import Text

    return Text(text) if re.search(r"[\[:\\]", text) else text


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int], indent: str) -> list[str]:
    """A header and rows in columns, two spaces apart."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    shown = [i for i in range(len(header)) if any(row[i] for row in rows)]  # no column for `left_alone` here
    for i in shown:
        table.add_column(Text(visible(header[i])), justify="right" if i in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[i]) for i in shown))
    buffer = io.StringIO()
    Console(file=buffer, width=_WIDTH, color_system=None).print(table)
    return [(indent + line).rstrip() for line in buffer.getvalue().splitlines()]


def _harmless(value):
    """A value for a spreadsheet, which takes text that begins like a formula for one."""
    if isinstance(value, tuple):
        return shape(value)
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and len(text) > 1 and not _NUMBER.fullmatch(text) else text
