"""What commands print and write: reports as the library makes them, and where a long run is."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Iterable

from tfstruct.errors import RecipeError
from tfstruct.terminal import Show, StageLines, console, display

REPORTS = (".html", ".json", ".md", ".txt", ".csv")


def is_shown(options) -> bool:
    """Whether anything but errors is printed for people."""
    return not (options.quiet or options.json)


def stages_of(options) -> StageLines | None:
    """Lines for a log, or on request; None where there is a bar, or nothing. Beside JSON they go to stderr."""
    if options.quiet or not getattr(options, "stages", False):
        return None
    stream = sys.stderr if options.json else sys.stdout
    return StageLines(stream) if options.verbose or not sys.stderr.isatty() else None


def display_of(options) -> contextlib.AbstractContextManager[Show]:
    """What a command shows while it works: a bar on a terminal, lines in a log, nothing where nothing is shown."""
    lines = stages_of(options)
    if lines is not None:
        return display(2, lines=lines)
    return display(int(is_shown(options) and sys.stderr.isatty()))


def check_report(options) -> list[pathlib.Path]:
    """The file of `--report`, if any; looked at before any work."""
    if not options.report:
        return []
    path = pathlib.Path(options.report)
    if path.suffix.lower() not in REPORTS:
        raise RecipeError(
            f"--report expects a name that ends in {', '.join(REPORTS[:-1])} or {REPORTS[-1]}. "
            f"Received: {options.report!r}."
        )
    return [path]


def show(options, reports: Iterable, written: Iterable = (), saved: int = 0) -> None:
    """Prints reports, writes number `saved` of them where `--report` says, and names the files that were written."""
    reports, written = list(reports), list(written)
    if options.report:
        reports[saved].save(options.report)
        written.append(options.report)
    if options.json:
        data = [report.to_dict() for report in reports]
        print(json.dumps(data if len(data) > 1 else data[0], indent=1))
    elif not options.quiet:
        screen = console(sys.stdout)
        for report in reports:
            screen.print(report.table())
        for path in written:
            screen.print(f"wrote {path}", markup=False, highlight=False)
