"""Writing files: whole or not at all."""

import os


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Writes beside the target, then renames: whoever looks sees the old file or the whole new one."""
    path = os.fspath(path)
    beside = f"{path}.{os.getpid()}.part"
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        if os.path.exists(beside):
            os.remove(beside)
        if isinstance(error, OSError) and error.filename is None:
            # A full disk does not say whose.
            raise OSError(error.errno, error.strerror, path) from error
        raise
