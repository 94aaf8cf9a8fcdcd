"""The terminal of the command: tables, a progress bar or lines, and silence from native libraries."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TextIO

_SILENT = 30.0  # seconds within a stage until it has another line


def console(stream):
    """A rich console that writes to `stream`."""
    from rich.console import Console

    # In a pipe a table must not be cut at 80 columns.
    return Console(file=stream, width=None if stream.isatty() else 140)


class StageLines:
    """A line for each stage of a long run, for logs: `[1:05] calibrate 0/500`; within a stage one every 30 seconds.

    Args:
        stream: where they are written.
    """

    def __init__(self, stream: TextIO):
        self._stream, self._began = stream, time.monotonic()
        self._stage, self._last = "", 0.0

    def __call__(self, stage: str, done: int | None = None, total: int | None = None, more: str = "") -> None:
        now = time.monotonic() - self._began
        if stage == self._stage and now - self._last < _SILENT:
            return
        self._stage, self._last = stage, now
        count = "" if done is None or not (done or total) else f" {done:,}{'' if total is None else f'/{total:,}'}"
        clock = f"[{int(now) // 60}:{int(now) % 60:02}]"
        print(f"{clock} {stage}{count}{more}", file=self._stream, flush=True)


@contextlib.contextmanager
def progress_bar(wanted: bool, lines: StageLines | None = None) -> Iterator:
    """A progress bar on a terminal; in a pipe `lines`, or nothing. What it yields takes (stage, done, total)."""
    if lines is not None or not wanted or not sys.stderr.isatty():
        yield lines or (lambda stage, done, total: None)
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
def progress_line(wanted: bool, lines: StageLines | None = None) -> Iterator:
    """A bar over steps of training with the stage, the time left and the best model up to now, on a terminal; in a pipe
    `lines`, or nothing. What it yields takes a `tfstruct.compression.Progress`."""
    if lines is not None:

        def line(state) -> None:
            lines(state.stage, state.done, state.total, str(state).removeprefix(state.stage))

        yield line
        return
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
