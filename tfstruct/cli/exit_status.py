"""How a command ends."""

import contextlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator

from tfstruct.errors import TfstructError
from tfstruct.terminal import without_native_chatter

FINE, BELOW, BAD_INPUT, FAULT = 0, 1, 2, 3
_SECONDS_TO_END = 5.0
_running = ["tfstruct-convert"]


def fail(message: str, status: int = BAD_INPUT) -> int:
    print(f"{_running[-1]}: {' '.join(message.split())}", file=sys.stderr)
    return status


class _Terminated(BaseException):
    """Raised where the process is told to end, so that it removes what it has made halfway."""


_told: list[float] = []


def _end(number, frame) -> None:
    """Raises, unless it has just done so: a second signal must not interrupt what the first one has begun to remove."""
    if not _told or time.monotonic() - _told[-1] > _SECONDS_TO_END:
        _told.append(time.monotonic())
        raise _Terminated


@contextlib.contextmanager
def _named(program: str) -> Iterator[None]:
    _running.append(program)
    try:
        yield
    finally:
        _running.pop()


def ended(program: str, work: Callable[[], int]) -> int:
    """The exit status of `work`; what is wrong is one line on stderr, which begins with the program's name."""
    with _named(program):
        try:
            return work()
        except TfstructError as error:
            return fail(str(error))
        except KeyboardInterrupt:
            return fail("interrupted")
        except _Terminated:
            return fail("stopped by SIGTERM", 128 + signal.SIGTERM)
        except MemoryError:
            return fail("out of memory")
        except OSError as error:
            return fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def without_traceback(work: Callable[[], int], verbose: bool) -> int:
    """`work`; an error that nobody foresaw is one line too, with the traceback before it where that is wanted."""
    try:
        return work()
    except (TfstructError, OSError, MemoryError):
        raise
    except Exception as error:
        if verbose:
            traceback.print_exc()
        hint = "" if verbose else " -v shows where."
        return fail(f"a fault of tfstruct: {type(error).__name__}: {str(error)[:300]}.{hint}", FAULT)


def run_as_process(main: Callable[[], int]) -> None:
    """The console entry: what TensorFlow's libraries print to stderr themselves is dropped."""
    signal.signal(signal.SIGTERM, _end)
    with without_native_chatter():
        status = main()
    sys.exit(status)
