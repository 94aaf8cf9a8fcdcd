"""How much a channel matters, by its weights alone."""

from collections.abc import Callable, Iterator

import keras
import numpy as np

from tfstruct.errors import ArgumentError
from tfstruct.graph import Each, Graph, Out
from tfstruct.graph.call import Slot

# Labels of an axis, and a value for each of its positions.
Member = tuple[np.ndarray, np.ndarray]
_NO_KERNELS = ("bias", "gamma", "beta", "moving", "alpha", "scale", "variance")
NEAR_ZERO = 1e-3


def is_kernel(variable) -> bool:
    """A weight that is multiplied with what comes in: no bias, no normalization's scale."""
    return len(variable.shape) > 1 and not any(part in variable.name for part in _NO_KERNELS)


def kernels(graph: Graph) -> Iterator[tuple[Slot, int, np.ndarray]]:
    """Every (slot, axis, labels) of a kernel that makes channels, or carries them (depthwise)."""
    for slot in graph.slots:
        if is_kernel(slot.variable):
            for axis, along, labels in slot.tied():
                if isinstance(along, Out | Each):
                    yield slot, axis, labels


def rows(value: np.ndarray, axis: int) -> np.ndarray:
    """The weights of each channel: shape (channels, weights)."""
    return np.moveaxis(value.astype(np.float64), axis, 0).reshape(value.shape[axis], -1)


def l1(w: np.ndarray) -> np.ndarray:
    return np.abs(w).sum(axis=1)


def l2(w: np.ndarray) -> np.ndarray:
    return np.sqrt((w**2).sum(axis=1))


def geometric_median(w: np.ndarray) -> np.ndarray:
    """Sum of the Euclidean distances to the other filters of the layer (FPGM, Eq. 6, arXiv:1811.00250)."""
    square = (w**2).sum(axis=1)
    distance = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * w @ w.T, 0))
    np.fill_diagonal(distance, 0)
    return distance.sum(axis=1)


def sparsity(w: np.ndarray) -> np.ndarray:
    """1 - share of the weights below a thousandth of the layer's largest."""
    return 1 - (np.abs(w) <= NEAR_ZERO * np.abs(w).max(initial=0)).mean(axis=1)


def lamp(energy: np.ndarray) -> np.ndarray:
    """Each energy over the sum of all that are not smaller (LAMP, Eq. 2, arXiv:2010.07611); ties by index."""
    order = np.argsort(energy, kind="stable")
    left = np.cumsum(energy[order][::-1])[::-1]
    score = np.empty_like(energy)
    score[order] = np.divide(energy[order], left, out=np.zeros_like(left), where=left > 0)
    return score


# Criterion -> (value of each channel, how a unit of several channels adds them up).
BY_KERNEL: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "l1": (l1, "sum"),
    "l2": (l2, "root"),
    "geometric_median": (geometric_median, "mean"),
    "sparsity": (sparsity, "mean"),
    "lamp": (lambda w: (w**2).sum(axis=1), "sum"),
}


def kernel_members(graph: Graph, criterion) -> list[Member]:
    """The criterion on every kernel; `criterion` is a name, or a function (slot, rows) -> one value a channel."""
    found = []
    for slot, axis, labels in kernels(graph):
        w = rows(keras.ops.convert_to_numpy(slot.variable), axis)
        if callable(criterion):
            value = np.asarray(criterion(slot, w), float)
            if value.shape != (len(w),):
                raise ArgumentError(
                    f"The criterion must return one number for each of the {len(w)} channels of {slot.path}/"
                    f"{slot.variable.name}. Received: shape {value.shape}."
                )
        else:
            value = BY_KERNEL[criterion][0](w)
        found.append((labels, value))
    return found


def bn_scale_members(graph: Graph) -> list[Member]:
    """|gamma| of every batch norm that has one (network slimming, arXiv:1708.06519)."""
    found = []
    for call in graph.calls:
        gamma = getattr(call.op, "gamma", None) if isinstance(call.op, keras.layers.BatchNormalization) else None
        for slot in call.slots:
            if gamma is not None and slot.variable is gamma:
                value = np.abs(keras.ops.convert_to_numpy(gamma)).astype(float)
                found += [(labels, value) for _, _, labels in slot.tied()]
    return found
