"""Attributes of models, layers, classes and modules replaced for as long as a `with` lasts, past Keras's tracking."""

import contextlib
import inspect
from collections.abc import Iterator
from types import ModuleType

from tfstruct.forks import Lock

_ABSENT = object()
_lock = Lock(reentrant=True)
# (id of an owner, attribute) -> what it was, then what has been put over it and is still open, the newest last.
_stacks: dict[tuple[int, str], list[list]] = {}


@contextlib.contextmanager
def replaced_attributes(owner, **attributes) -> Iterator[None]:
    """While it is open, these attributes have other values; afterwards they are what they were.

    Keras does not track what is put there: it is no part of a layer's state, and is not saved. A method such as `call`
    that is replaced on an object goes before that of its class. Several may be open for the same attribute, in one
    thread or in more, and close in any order: the newest of those that are open counts. What somebody else has put in
    its place since stays.

    Raises:
        AttributeError: the owner has no such attribute.
    """
    with contextlib.ExitStack() as stack:
        for name, value in attributes.items():
            stack.enter_context(_replaced(owner, name, value))
        yield


@contextlib.contextmanager
def _replaced(owner, name: str, value) -> Iterator[None]:
    getattr(owner, name)
    entry, key = [value], (id(owner), name)
    with _lock.held():
        before = _own(owner, name)
        stack = _stacks.get(key)
        if stack is None or stack[-1][0] is not before:
            stack = _stacks[key] = [[before]]
        stack.append(entry)
        set_untracked(owner, name, value)
    try:
        yield
    finally:
        with _lock.held():
            newest = stack[-1] is entry
            stack[:] = [one for one in stack if one is not entry]
            if len(stack) == 1 and _stacks.get(key) is stack:
                del _stacks[key]
            if newest and _still_there(owner, name, value):
                if stack[-1][0] is _ABSENT:
                    remove_untracked(owner, name)
                else:
                    set_untracked(owner, name, stack[-1][0])


def _own(owner, name: str):
    """The attribute of the object itself, not of its class, or what a property of it gives."""
    if name in vars(owner):
        return vars(owner)[name]
    return getattr(owner, name) if _is_property(owner, name) else _ABSENT


def _is_property(owner, name: str) -> bool:
    found = next((vars(kind)[name] for kind in type(owner).__mro__ if name in vars(kind)), None)
    return inspect.isdatadescriptor(found)


def _still_there(owner, name: str, value) -> bool:
    # A property may give an equal object each time.
    return _own(owner, name) is value or (name not in vars(owner) and _is_property(owner, name))


def set_untracked(owner, name: str, value) -> None:
    """Sets an attribute past Keras's tracking, which would make layers and variables in it a part of the owner."""
    if isinstance(owner, type | ModuleType):
        setattr(owner, name, value)
    else:
        object.__setattr__(owner, name, value)


def remove_untracked(owner, name: str) -> None:
    """Takes an attribute of the object itself away; that of its class, if there is one, counts again."""
    if isinstance(owner, type | ModuleType):
        delattr(owner, name)
    else:
        object.__delattr__(owner, name)
