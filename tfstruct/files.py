"""Writing files whole or not at all, and folders of one process alone; what a killed process left is cleared away.

What is written or worked in is locked by its process, and the system gives the lock back however that ends. So a file
beside its target, or a temporary folder, that nobody has locked is left over. Systems without such locks keep it.
"""

import contextlib
import errno
import glob
import gzip
import os
import secrets
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import IO, ClassVar

from tfstruct.forks import after_fork

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX, _LOCK = "tfstruct-", ".lock"


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Writes beside the target, then renames: whoever looks sees the old file or the whole new one."""
    with _beside(os.fspath(path), ".part") as (_, file):
        file.write(content)


@contextlib.contextmanager
def file_atomic(path: str | os.PathLike) -> Iterator[str]:
    """Context manager: for what is written by others, a path beside the target with the target's ending. The file there
    gets the target's name at the end; an error removes it."""
    path = os.fspath(path)
    with _beside(path, f".part{os.path.splitext(path)[1]}") as (beside, _):
        yield beside


@contextlib.contextmanager
def _beside(path: str, ending: str) -> Iterator[tuple[str, IO[bytes]]]:
    """A locked file beside `path`, which is renamed at the end."""
    stem = path.removesuffix(ending.removeprefix(".part"))
    _clear(glob.glob(f"{glob.escape(stem)}.*{ending}"))
    beside = f"{stem}.{os.getpid()}-{threading.get_ident()}{ending}"
    try:
        with _new_locked(beside) as file:
            yield beside, file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # as long as it is locked; Windows renames no open file
                os.replace(beside, path)
        if fcntl is None:
            os.replace(beside, path)
    except BaseException as error:
        _remove_file(beside)
        if isinstance(error, OSError):
            # A full disk does not say whose, and nobody has asked for the file beside.
            raise OSError(error.errno, error.strerror or str(error), path) from error
        raise


def gzip_size(content: bytes) -> int:
    """The bytes that gzip makes of it, at its highest level."""
    return len(gzip.compress(content, 9, mtime=0))


def save_model(model, path: str | os.PathLike) -> None:
    """Writes a Keras model as a `.keras` file, whole or not at all."""
    with file_atomic(path) as beside:
        model.save(beside)


@contextlib.contextmanager
def folder_atomic(path: str | os.PathLike) -> Iterator[str]:
    """Context manager: a folder beside the target to be filled, which is renamed at the end; an error removes it.

    Raises:
        FileExistsError: the target is there already and not an empty folder.
    """
    path = os.fspath(path)
    _clear_folders(f"{glob.escape(path)}.*.part{_LOCK}")
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise FileExistsError(errno.EEXIST, "exists already. Expected a new or an empty folder", path)
    beside = f"{path}.{os.getpid()}-{threading.get_ident()}.part"
    os.makedirs(os.path.dirname(beside) or ".", exist_ok=True)
    held = FileLock(f"{beside}{_LOCK}")  # before there is a folder, and until there is none
    try:
        os.mkdir(beside)
        yield beside
        os.replace(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    finally:
        held.release()


class FileLock:
    """A locked file, from its making to `release` or to the end of the process.

    Args:
        path: made where there is none.

    Raises:
        BlockingIOError: another process has it.
    """

    def __init__(self, path: str):
        self.path, self._process = path, os.getpid()
        while True:
            self._file = self._opened()
            if not _lock(self._file.fileno()):
                self._file.close()
                raise BlockingIOError(f"{self.path} is in use")
            if _is_at(self._file.fileno(), self.path):  # not one that its holder removed in the meantime
                break
            self._file.close()
        _held.add(self)

    def _opened(self) -> IO[bytes]:
        while True:
            with contextlib.suppress(FileNotFoundError):
                return open(self.path, "r+b")
            with contextlib.suppress(FileExistsError):  # another one was faster
                return _new_locked(self.path)

    def release(self) -> None:
        """Gives it back; the file that held it goes. Nothing in a forked process: the lock is its parent's."""
        if os.getpid() == self._process:
            _remove_file(self.path)
            self._file.close()


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


@after_fork
def _leave_all() -> None:
    """In a forked process, which would have the locks of its parent as long as it lives."""
    for lock in list(_held):
        lock._file.close()


class FolderLock(FileLock):
    """The lock of a folder: a file in it.

    Args:
        folder: it exists.

    Raises:
        BlockingIOError: another process has it.
    """

    NAME: ClassVar[str] = _LOCK

    def __init__(self, folder: str | os.PathLike):
        super().__init__(os.path.join(folder, self.NAME))


def clear_parts(folder: str | os.PathLike[str]) -> None:
    """Removes files that a killed process left half written in a folder and in those inside of it."""
    for where, _, names in os.walk(os.fspath(folder)):
        _clear([os.path.join(where, name) for name in names if is_part(name)])


def is_part(name: str) -> bool:
    """Whether a file of that name is one that `write_atomic` or `file_atomic` has begun."""
    return ".part" in (name[-5:], os.path.splitext(name)[0][-5:])


class TemporaryFolder(contextlib.AbstractContextManager):
    """A temporary folder of this process; the context is its path. A locked file beside it says that it is in use, from
    before the folder is made until it is gone: one that nobody has locked is left over, and the next call removes it.

    Args:
        what: part of its name.
    """

    def __init__(self, what: str = "work"):
        where = tempfile.gettempdir()
        _clear_folders(os.path.join(glob.escape(where), f"{_PREFIX}*{_LOCK}"))
        self.path = os.path.join(where, f"{_PREFIX}{what}-{secrets.token_hex(4)}")
        held = FileLock(f"{self.path}{_LOCK}")
        self._removed = weakref.finalize(self, _remove, self.path, held, os.getpid())
        os.mkdir(self.path, 0o700)

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *exc) -> None:
        self.remove()

    def remove(self) -> None:
        self._removed()


def _remove(path: str, held: FileLock, process: int) -> None:
    if os.getpid() != process:  # a forked process has a copy of the object, not of the folder
        return
    try:
        shutil.rmtree(path, ignore_errors=True)
        held.release()
    except BaseException:  # a signal's: what it has interrupted is done again, as nothing else removes it any more
        shutil.rmtree(path, ignore_errors=True)
        held.release()
        raise


def _new_locked(path: str) -> IO[bytes]:
    """A new file, open for reading and writing, and locked before it gets its name: else another process could take it
    for what a killed one has left.

    Raises:
        FileExistsError: there is one of that name.
    """
    try:
        number = os.open(os.path.dirname(path) or ".", os.O_TMPFILE | os.O_RDWR, 0o666)
    except (AttributeError, OSError):  # a system or a file system without files that have no name
        return _new_locked_by_link(path)
    file = os.fdopen(number, "w+b")
    try:
        _lock(number)
        # A folder is given as Python follows the link only then.
        os.link(f"/proc/self/fd/{number}", path, src_dir_fd=number, follow_symlinks=True)
    except BaseException as error:
        file.close()
        if isinstance(error, FileExistsError) or not isinstance(error, OSError):
            raise
        return _new_locked_by_link(path)
    return file


def _new_locked_by_link(path: str) -> IO[bytes]:
    """The same by a second name, which is gone at the end. A kill meanwhile leaves an empty file of that name."""
    beside = f"{path}.{os.getpid()}-{threading.get_ident()}"
    with contextlib.ExitStack() as undone:
        undone.callback(_remove_file, beside)
        file = undone.enter_context(open(beside, "w+b"))
        _lock(file.fileno())
        try:
            os.link(beside, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            os.replace(beside, path)
        undone.pop_all()
    _remove_file(beside)
    return file


def _remove_file(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


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


def _clear_folders(pattern: str) -> None:
    """Removes folders whose locks, which match the pattern, nobody holds, and the locks."""
    for lock in glob.glob(pattern):
        if not os.path.islink(lock) and _is_left_over(lock):
            shutil.rmtree(lock.removesuffix(_LOCK), ignore_errors=True)
            with contextlib.suppress(OSError):
                os.remove(lock)


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
