"""Small files from elsewhere, read as far as they may reach."""

import os

from tfstruct.errors import TfstructError


def read_bytes(path: str | os.PathLike, most: int, error: type[TfstructError], what: str = "") -> bytes:
    """The bytes of a file; of a larger one than `most` one byte more than that, for the caller to refuse.

    Args:
        what: begins messages: "--config: ".

    Raises:
        error: there is no such file, or it cannot be read.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            return file.read(most + 1)
    except FileNotFoundError:
        raise error(f"{what}{'t' if what else 'T'}here is no file {name}.") from None
    except OSError as reason:
        raise error(f"{what}{name} cannot be read: {reason.strerror}.") from None
