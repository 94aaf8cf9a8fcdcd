"""Operations that take and return more on numbers, as a layer runs, than Keras says of them on symbolic tensors."""

from collections.abc import Callable

import keras
import numpy as np

from tfstruct.keras_internals.operation_types import operation

_get_item = operation("GetItem").symbolic_call


def _item(op, x, key):
    """`x[None]`, `x[1:]`, `x[...]` and `x[np.int64(1)]`: Keras takes Python's numbers, and tuples of keys."""
    keys = key if isinstance(key, (tuple, list)) else (key,)
    return _get_item(op, x, tuple(int(one) if isinstance(one, np.integer) else one for one in keys))


# What is recorded in place of an operation: functions of (operation, its arguments).
FORMS: dict[type[keras.Operation], Callable] = {
    operation("GetItem"): _item,
    operation("Ndim"): lambda op, x: len(x.shape),
}
