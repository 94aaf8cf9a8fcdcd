"""Whole arrays that a user gives for inputs which are known by name, such as those of a file."""

from collections.abc import Mapping, Sequence

import numpy as np

from tfstruct.errors import DataError


def arrays_by_name(x, names: Sequence[str]) -> dict[str, np.ndarray]:
    """An array, a list in the order of the inputs, a dict by name, or a tuple of that and labels, as a dict by name.

    Raises:
        DataError: other inputs than these, or different numbers of samples.
    """
    if isinstance(x, tuple) and 1 <= len(x) <= 3:  # (x,), (x, y) or (x, y, weights), as everywhere
        x = x[0]
    if isinstance(x, Mapping):
        if set(x) != set(names):
            raise DataError(f"Expected the inputs {list(names)}. Received {sorted(map(str, x))}.")
        found = {name: np.asarray(x[name]) for name in names}
    elif len(names) == 1:
        found = {names[0]: np.asarray(x)}
    elif isinstance(x, list) and len(x) == len(names):
        found = {name: np.asarray(value) for name, value in zip(names, x, strict=True)}
    else:
        raise DataError(f"Expected a dict or a list of {len(names)} arrays for the inputs {list(names)}.")
    if len({len(value) if value.ndim else -1 for value in found.values()}) != 1:
        shapes = {name: value.shape for name, value in found.items()}
        raise DataError(f"The inputs must have the same number of samples. Received shapes {shapes}.")
    return found
