"""Writing files whole or not at all, and folders of one process alone; what a killed process left is cleared away.

What is written or worked in is locked by its process, and the system gives the lock back however that ends. So a file
beside its target, or a temporary folder, that nobody has locked is left over. Systems without such locks keep it.
"""

import contextlib
import glob
import gzip
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, ClassVar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = "tfstruct-"


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Writes beside the target, then renames: whoever looks sees the old file or the whole new one."""
    path = os.fspath(path)
    _clear(glob.glob(f"{glob.escape(path)}.*.part"))
    beside = f"{path}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        with open(beside, "wb") as file:
            _lock(file.fileno())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # as long as it is locked; Windows renames no open file
                os.replace(beside, path)
        if fcntl is None:
            os.replace(beside, path)
    except BaseException as error:
        if os.path.exists(beside):
            os.remove(beside)
        if isinstance(error, OSError):
            # A full disk does not say whose, and nobody has asked for the file beside.
            raise OSError(error.errno, error.strerror, path) from error
        raise


def gzip_size(content: bytes) -> int:
    """The bytes that gzip makes of it, at its highest level."""
    return len(gzip.compress(content, 9, mtime=0))


def save_model(model, path: str | os.PathLike) -> None:
    """Writes a Keras model as a `.keras` file, whole or not at all."""
    beside = f"{os.fspath(path).removesuffix('.keras')}.part.keras"
    try:
        model.save(beside)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(beside)
        raise


@contextlib.contextmanager
def folder_atomic(path: str | os.PathLike) -> Iterator[str]:
    """Context manager: a folder beside the target to be filled, which is renamed at the end; an error removes it."""
    path = os.fspath(path)
    for left in glob.glob(f"{glob.escape(path)}.*.part"):
        _clear_folder(left)
    beside = f"{path}.{os.getpid()}-{threading.get_ident()}.part"
    os.makedirs(beside)
    try:
        held = FolderLock(beside)
        yield beside
        held.release()
        os.replace(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


class FolderLock:
    """The lock of a folder, from its making to `release` or to the end of the process.

    Args:
        folder: it exists.

    Raises:
        BlockingIOError: another process has it.
    """

    NAME: ClassVar[str] = ".lock"

    def __init__(self, folder: str | os.PathLike):
        self.path = os.path.join(folder, self.NAME)
        while True:
            self._file = self._opened()
            if not _lock(self._file.fileno()):
                self._file.close()
                raise BlockingIOError(f"{os.fspath(folder)} is in use")
            if _is_at(self._file.fileno(), self.path):  # not one that its holder removed in the meantime
                break
            self._file.close()

    def _opened(self) -> IO[bytes]:
        """The file, open. A new one is locked before it gets its name: without a holder the folder would be taken for
        what a killed process has left."""
        while True:
            with contextlib.suppress(FileNotFoundError):
                return open(self.path, "r+b")
            beside = f"{self.path}.{os.getpid()}-{threading.get_ident()}"
            file = open(beside, "w+b")  # noqa: SIM115 (open as long as it is locked)
            _lock(file.fileno())
            try:
                os.link(beside, self.path)
            except FileExistsError:  # another one was faster
                file.close()
                continue
            except OSError:  # a file system without links
                os.replace(beside, self.path)
                return file
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(beside)
            return file

    def release(self) -> None:
        """Gives it back; the file that held it goes."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path)
        self._file.close()


def clear_parts(folder: str | os.PathLike[str]) -> None:
    """Removes files that a killed process left half written in a folder and in those inside of it."""
    for where, _, names in os.walk(os.fspath(folder)):
        _clear([os.path.join(where, name) for name in names if name.endswith((".part", ".part.keras"))])


class TemporaryFolder(contextlib.AbstractContextManager):
    """A temporary folder of this process; the context is its path.

    Args:
        what: part of its name.
    """

    def __init__(self, what: str = "work"):
        for left in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{_PREFIX}*")):
            _clear_folder(left)
        self._folder = tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{what}-", ignore_cleanup_errors=True)
        self._held = FolderLock(self._folder.name)

    @property
    def path(self) -> str:
        return self._folder.name

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *exc) -> None:
        self.remove()

    def remove(self) -> None:
        self._held.release()
        self._folder.cleanup()


def _lock(number: int) -> bool:
    """Locks an open file; False where another process has it."""
    if fcntl is not None:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True


def _is_at(number: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except FileNotFoundError:
        return False


def _clear(paths: list[str]) -> None:
    for path in paths:
        if _is_left_over(path):
            with contextlib.suppress(OSError):
                os.remove(path)


def _clear_folder(path: str) -> None:
    """Ours have their lock from the start; one without is being made, or not ours."""
    lock = os.path.join(path, FolderLock.NAME)
    if os.path.isfile(lock) and not os.path.islink(path) and _is_left_over(lock):
        shutil.rmtree(path, ignore_errors=True)


def _is_left_over(path: str) -> bool:
    """Whether no process has a file of this user's locked."""
    if fcntl is None:
        return False
    try:
        if os.stat(path).st_uid != os.getuid():
            return False
        with open(path, "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False
