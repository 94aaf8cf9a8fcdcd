"""What `tfstruct-convert` does with its arguments, and how it ends."""

import signal
import sys

from tfstruct.cli.arguments import parser
from tfstruct.cli.compressing import compress, refuse_without_budget
from tfstruct.cli.converting import convert
from tfstruct.cli.demonstration import demo
from tfstruct.cli.exit_status import fail
from tfstruct.errors import RecipeError, TfstructError
from tfstruct.terminal import without_native_chatter


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; what is wrong is one line on stderr."""
    try:
        options = parser().parse_args(argv)
        if options.demo:
            return demo(options)
        if options.model is None:
            raise RecipeError("No model was given. Expected: tfstruct-convert MODEL -o OUT.tflite (or --demo).")
        if options.budget is not None:
            return compress(options)
        refuse_without_budget(options)
        return convert(options)
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


class _Terminated(BaseException):
    """Raised where the process is told to end, so that it removes what it has made halfway."""


def _end(number, frame) -> None:
    raise _Terminated


def run() -> None:
    """The console entry: what TensorFlow's libraries print to stderr themselves is dropped."""
    signal.signal(signal.SIGTERM, _end)
    with without_native_chatter():
        status = main()
    sys.exit(status)
