"""A layer or operation once more, from its configuration."""

import contextlib
import types
from collections.abc import Callable, Iterator

import keras

from tfstruct.errors import ModelError, first_line
from tfstruct.forks import Lock
from tfstruct.keras_internals.layer_parts import all_layers

_LOCK = Lock(reentrant=True)  # names of functions are changed by one thread at a time


def again(op: keras.Operation, change: Callable[[dict], dict] = dict, path: str = "") -> keras.Operation:
    """A new layer or operation of the same class.

    Args:
        change: from the configuration of `op` to that of the new one.
        path: of `op`, for the error; by default its name.

    Raises:
        ModelError: its class does not make it again.
    """
    try:
        with functions_known(op):
            return type(op).from_config(change(op.get_config()))
    except Exception as error:  # a user's class may raise anything
        raise ModelError(
            f"{path or op.name} ({type(op).__name__}) cannot be made again from its configuration: "
            f"{first_line(error)} Give it a get_config that lists its arguments."
        ) from error


@contextlib.contextmanager
def functions_known(op: keras.Operation) -> Iterator[None]:
    """While it is open, configurations of a model or layer, and of what is inside of it, make layers with its own
    functions, such as `Dense(8, activation=lambda x: ...)`: Keras writes down the code of such a function or its name,
    and makes a layer of neither unless it is registered."""
    inside = all_layers(op) if isinstance(op, keras.layers.Layer) else [op]
    found = {id(x): x for one in inside for x in vars(one).values() if _is_own(x)}
    if not found:
        yield
        return
    with _LOCK.held():
        before = [(function, function.__name__) for function in found.values()]
        try:
            for number, (function, name) in enumerate(before):
                function.__name__ = f"{name.strip('<>')}_of_layer_{number}"
            with keras.saving.custom_object_scope({function.__name__: function for function, _ in before}):
                yield
        finally:
            for function, name in before:
                function.__name__ = name


def _is_own(value) -> bool:
    if not isinstance(value, types.FunctionType) or keras.saving.get_registered_name(value) != value.__name__:
        return False
    try:
        return keras.activations.get(value.__name__) is not value
    except ValueError:
        return True
