"""What a forked process must not take over from its parent: locks of threads that stayed there, and the like."""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator


def after_fork(call: Callable[[], None]) -> Callable[[], None]:
    """Decorator: calls a function first thing in every forked process."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=call)
    return call


class Lock:
    """A lock of threads that is free in a forked process, whatever thread of the parent held it.

    Args:
        reentrant: whether the thread that holds it may take it once more.

    Example:
        >>> from tfstruct.forks import Lock
        >>> lock = Lock()
        >>> with lock.held():
        ...     pass
    """

    def __init__(self, reentrant: bool = False):
        self._new = threading.RLock if reentrant else threading.Lock
        self._lock = self._new()
        _every.add(self)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Context manager: no other thread of this process holds it while it is open."""
        with self._lock:
            yield


_every: "weakref.WeakSet[Lock]" = weakref.WeakSet()


@after_fork
def _free_all() -> None:
    for lock in list(_every):
        lock._lock = lock._new()
