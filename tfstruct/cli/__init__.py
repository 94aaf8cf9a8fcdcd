"""The command `tfstruct-convert`."""

from tfstruct.cli.command import main, run
from tfstruct.cli.exit_status import BAD_INPUT, BELOW, FINE

__all__ = ["BAD_INPUT", "BELOW", "FINE", "main", "run"]
