"""The terminal: tables, what a long call shows while it works, and silence from native libraries."""

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from tfstruct.arguments import require_one_of
from tfstruct.errors import ArgumentTypeError

Verbose = str | int
VERBOSE = ("auto", 0, 1, 2)
Show = Callable[..., None]  # (stage, done=None, total=None, more="")
Progress = Callable[[str, int, int | None], None]  # (stage, done, total), total None where it is unknown

_SILENT_AT_FIRST, _SILENT = 5.0, 30.0  # seconds within a stage until it has another line: in the first minute, later
_shown = threading.local()


def console(stream):
    """A rich console that writes to `stream`."""
    from rich.console import Console

    # In a pipe a table must not be cut at 80 columns.
    return Console(file=stream, width=None if stream.isatty() else 140)


class StageLines:
    """A line for each stage of a long run, for logs: `[1:05] calibrate 0/500`; within a stage one every 5 seconds, and
    after a minute every 30.

    Args:
        stream: where they are written; by default stderr as it is then.
        after: seconds before the first line: what takes less is silent.
    """

    def __init__(self, stream: TextIO | None = None, after: float = 0.0):
        self._stream, self._after, self._began = stream, after, time.monotonic()
        self._told, self._written, self._last = ("", ""), "", 0.0
        self._lock = threading.Lock()

    def __call__(self, stage: str, done: int | None = None, total: int | None = None, more: str = "") -> None:
        count = "" if done is None or not (done or total) else f" {done:,}{'' if total is None else f'/{total:,}'}"
        self._told = (stage, f"{count}{more}")
        self.pulse()

    def pulse(self) -> None:
        """Writes where the run is, if the last line was another stage's or too long ago."""
        with self._lock:
            stage, more = self._told
            now = time.monotonic() - self._began
            overdue = now - self._last >= (_SILENT if now > 60 else _SILENT_AT_FIRST)
            if not stage or now < self._after or (stage == self._written and not overdue):
                return
            self._written, self._last = stage, now
            clock = f"[{int(now) // 60}:{int(now) % 60:02}]"
            print(f"{clock} {stage}{more}", file=self._stream or sys.stderr, flush=True)

    @contextlib.contextmanager
    def beating(self) -> Iterator["StageLines"]:
        """Lines also while nothing calls it."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(1.0):
                self.pulse()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()


@contextlib.contextmanager
def display(verbose: Verbose = "auto", *, listens: bool = False, lines: StageLines | None = None) -> Iterator[Show]:
    """What a long call shows while it works. Yields a function (stage, done, total, more) that is told where it is.

    Args:
        verbose: 0: nothing is shown. 1: a bar. 2: a line for each stage (`StageLines`). `"auto"`: nothing to a caller
            who `listens`; else a bar on a terminal and in a notebook, and elsewhere lines, from the fifth second on. A
            call within a call shows nothing of its own.
        listens: whether the caller is told by a function of its own.
        lines: to be written on, in place of new ones.

    Raises:
        ArgumentError: `verbose` is none of these.

    Example:
        >>> from tfstruct.terminal import StageLines, display
        >>> with display(2, lines=StageLines(sys.stdout)) as show:
        ...     show("count", 1, 2)
        [0:00] count 1/2
    """
    require_one_of("verbose", verbose, VERBOSE)
    if getattr(_shown, "now", False) or verbose == 0 or (verbose == "auto" and listens):
        yield lambda stage, done=None, total=None, more="": None
        return
    _shown.now = True
    try:
        if verbose == 1 or (verbose == "auto" and lines is None and _interactive()):
            with _bar() as bar:
                yield bar
        else:
            with (lines or StageLines(after=0.0 if verbose == 2 else _SILENT_AT_FIRST)).beating() as own:
                yield own
    finally:
        _shown.now = False


def silent(stage: str, done: int, total: int | None) -> None:
    """A `Progress` that does nothing: nobody listens."""


def shows_progress(function: Callable) -> Callable:
    """A decorator of a function that has `progress`, a `Progress`, and `verbose`, see `display`: it gets a `progress`
    that does what both say. None is `silent`; False in place of a function is `verbose=0`."""

    @functools.wraps(function)
    def call(*args, progress: Progress | bool | None = silent, verbose: Verbose = "auto", **kwargs):
        if progress is not None and not isinstance(progress, bool) and not callable(progress):
            raise ArgumentTypeError(f"`progress` must be a function, True, False or None. Received: {progress!r}.")
        if isinstance(progress, bool):
            progress, verbose = None, verbose if progress else 0
        listener = progress or silent
        with display(verbose, listens=listener is not silent) as show:
            show(function.__name__)

            def told(stage: str, done: int, total: int | None) -> None:
                show(stage, done, total)
                listener(stage, done, total)

            return function(*args, progress=told, **kwargs)

    return call


def _interactive() -> bool:
    """Whether a bar can be drawn: on a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextlib.contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<14}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("load", total=None)
        now = ""

        def show(stage: str, done: int | None = None, total: int | None = None, more: str = "") -> None:
            nonlocal now
            if stage != now:
                bar.reset(task, description=stage, total=total)
                now = stage
            bar.update(task, description=f"{stage}{more}", completed=done or 0, total=total)

        yield show


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
