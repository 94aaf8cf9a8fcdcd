"""The commands `tfstruct` and `tfstruct-convert`: a file a job.

What all share: `parsing.py` the parser, `arguments.py` groups of options, `options.py` from arguments to what the
library takes, `functions.py` several models for one file, `spelled.py` values as people write them,
`configuration.py` options in files, `showing.py` what is printed, `exit_status.py` how a command ends. `commands.py`
has the jobs of `tfstruct`, `command.py` is `tfstruct-convert`.
"""

from tfstruct.cli.command import main, run
from tfstruct.cli.exit_status import BAD_INPUT, BELOW, FAULT, FINE

__all__ = ["BAD_INPUT", "BELOW", "FAULT", "FINE", "main", "run"]
