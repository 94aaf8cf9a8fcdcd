"""The terminal of the command: tables, a progress bar, and silence from native libraries."""

import contextlib
import os
import sys
from collections.abc import Iterator


def console(stream):
    """A rich console that writes to `stream`."""
    from rich.console import Console

    # In a pipe a table must not be cut at 80 columns.
    return Console(file=stream, width=None if stream.isatty() else 140)


@contextlib.contextmanager
def progress_bar(wanted: bool) -> Iterator:
    """A progress bar on a terminal; nothing in a pipe."""
    if not wanted or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("load", total=None)
        shown = ""

        def progress(stage: str, done: int, total: int | None) -> None:
            nonlocal shown
            if stage != shown:
                bar.reset(task, description=stage, total=total)
                shown = stage
            bar.update(task, completed=done, total=total)

        yield progress


@contextlib.contextmanager
def progress_line(wanted: bool) -> Iterator:
    """A bar over steps of training with the stage, the time left and the best model up to now, on a terminal; nothing
    in a pipe. What it yields takes a `tfstruct.compression.Progress`."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("load", total=None)
        yield lambda state: bar.update(task, description=str(state), completed=state.done, total=state.total)


@contextlib.contextmanager
def without_native_chatter() -> Iterator[None]:
    """Python's stderr goes on; what C++ libraries write to file descriptor 2 does not reach the user."""
    real = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    python_stderr = sys.stderr
    try:
        sys.stderr = os.fdopen(os.dup(real), "w", buffering=1)
        os.dup2(null, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(real, 2)
        sys.stderr = python_stderr
        os.close(real)
        os.close(null)
