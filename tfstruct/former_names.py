"""Arguments that go by another name than before: the former one is taken too, with a warning."""

import functools
import warnings
from collections.abc import Callable

from tfstruct.arguments import named_as
from tfstruct.errors import ArgumentTypeError


def formerly(**names: str | Callable[[object], dict]):
    """A decorator: arguments are taken by their former names too.

    Args:
        **names: former name -> the present one, or a function of the former value that returns present arguments.

    Raises:
        ArgumentTypeError: of the decorated function: both names of one argument are given.

    Errors about such an argument name it as it was given.
    """

    def decorate(function):
        @functools.wraps(function)
        def taking_both(*args, **kwargs):
            used = {}
            for name in names.keys() & kwargs.keys():
                present, value = names[name], kwargs.pop(name)
                given = {present: value} if isinstance(present, str) else present(value)
                for new in given:
                    if new in kwargs:
                        raise ArgumentTypeError(f"`{name}` is the former name of `{new}`: give one of the two.")
                    used[new] = name
                kwargs |= given
                said = ", ".join(f"{new}={one!r}" for new, one in given.items())
                warnings.warn(
                    f"{function.__name__}({name}=...) is now {function.__name__}({said})" if said else
                    f"{function.__name__} takes no `{name}` any more: without it the same is done",
                    FutureWarning,
                    stacklevel=2,
                )  # fmt: skip
            with named_as(**used):
                return function(*args, **kwargs)

        return taking_both

    return decorate
