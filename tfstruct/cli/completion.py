"""`tfstruct completion`: completion of commands and options by shtab, where that is installed."""

from tfstruct.errors import MissingPackageError

SHELLS = ("bash", "zsh", "tcsh")


def completion_arguments(parser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that the script is for")
    parser.set_defaults(quiet=False)


def complete(options) -> int:
    """Prints the script.

    Raises:
        MissingPackageError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise MissingPackageError(
            "Completion needs shtab, which is not installed. Install it: pip install 'tfstruct[completion]'."
        ) from None
    print(shtab.complete(options.parser, options.shell))
    return 0
