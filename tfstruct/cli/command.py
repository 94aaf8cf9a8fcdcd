"""What `tfstruct-convert` does with its arguments."""

from tfstruct.cli.arguments import parser
from tfstruct.cli.compressing import compress, refuse_without_budget
from tfstruct.cli.converting import convert
from tfstruct.cli.demonstration import demo
from tfstruct.cli.exit_status import ended, run_as_process
from tfstruct.errors import RecipeError


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; what is wrong is one line on stderr."""
    return ended("tfstruct-convert", lambda: _work(argv))


def _work(argv: list[str] | None) -> int:
    options = parser().parse_args(argv)
    if options.demo:
        return demo(options)
    if options.model is None and "=" not in (options.signature or ""):
        raise RecipeError("No model was given. Expected: tfstruct-convert MODEL -o OUT.tflite (or --demo).")
    if options.budget is not None:
        return compress(options)
    refuse_without_budget(options)
    return convert(options)


def run() -> None:
    """The console entry."""
    run_as_process(main)
