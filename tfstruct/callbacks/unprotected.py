"""What of a model training would undo: zeros and shared values that nothing attached to it holds."""

import dataclasses
import math
from collections.abc import Iterator

import keras
import numpy as np

from tfstruct.callbacks.constraints import Attached
from tfstruct.errors import ModelError
from tfstruct.graph.kernels import Kernel, kernels, lent

_FEW = 0.05  # of a kernel: fewer zeros than these are not worth a word
_VALUES = 256  # a kernel that shares values has at most so many, and eight weights for each


@dataclasses.dataclass(frozen=True)
class _Found:
    """What one kernel has that is not held: how many zeros, how many shared values."""

    kernel: Kernel
    zeros: int
    values: int

    def __str__(self) -> str:
        what = [f"{self.zeros / math.prod(self.kernel.variable.shape):.0%} zeros"] if self.zeros else []
        return f"{self.kernel.name} ({', '.join([*what, *([f'{self.values} values'] if self.values else [])])})"


def unprotected(model: keras.Model) -> str:
    """In words, which zeros and shared values of a model nothing holds, and what to do; empty if there are none.

    Kernels that do not train keep theirs, and so do those that look as an initializer makes them: one value, and zeros.
    """
    try:
        taken = kernels(model, depthwise=True)
    except ModelError:
        return ""
    trained = {id(v) for v in model.trainable_variables}
    taken = [kernel for kernel in taken if id(kernel.variable) in trained]
    found = [one for kernel in taken if (one := _found(kernel))]
    if not found:
        return ""
    zeros, values = any(one.zeros for one in found), max(one.values for one in found)
    what = " and ".join([*(["zeros"] if zeros else []), *(["shared values"] if values else [])])
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    keep = [f'Prune({_share(model):.4g}, scope="global")'] if zeros else []
    keep += [f"Cluster({values})"] if values else []
    beside = "beside what is attached, or in the place of what begins with less"
    if any(one.owner == "PruneChannels" for kernel in taken for one in _held(kernel.variable)):
        beside = "without PruneChannels, or remove whole channels of zeros before by surgery.shrink(model)"
    return (
        f"`{model.name}` has {what} that nothing attached to it holds, so that its training undoes them: "
        f"{', '.join(map(str, found[:4]))}{more}. To keep them as they are, have {' and '.join(keep)} from the start, "
        f"{beside}. To go on with an earlier training, load a file that was saved in its `fit` (.keras or .weights.h5, "
        "by ModelCheckpoint) after `import tfstruct.callbacks`, and give callbacks with the settings of then."
    )


def _found(kernel: Kernel) -> _Found | None:
    w = lent(kernel.variable)
    dead = w == 0
    count = w.size - int(np.count_nonzero(dead))
    some = _first(w, dead, 8 * _VALUES)
    if not count or ((some == some[0]).all() and ((w == some[0]) | dead).all()):
        return None
    held = list(_held(kernel.variable))
    lost = dead
    for one in held if count < w.size else ():
        lost = np.greater(lost, one.keeps_zero(w))
    zeros = int(np.count_nonzero(lost))
    values = 0 if any(one.shares for one in held) else _shared_values(w, dead, some, count)
    return _Found(kernel, zeros if zeros > _FEW * w.size else 0, values) if zeros > _FEW * w.size or values else None


def _first(w: np.ndarray, dead: np.ndarray, most: int) -> np.ndarray:
    """The first weights that are not zero."""
    flat, zero, found, start = w.ravel(), dead.ravel(), np.zeros(0, w.dtype), 0
    while start < flat.size and found.size < most:
        piece = slice(start, start + 4 * most)
        found = np.concatenate([found, flat[piece][~zero[piece]]])
        start = piece.stop
    return found[:most]


def _shared_values(w: np.ndarray, dead: np.ndarray, some: np.ndarray, count: int) -> int:
    """How many values the weights that are not zero share; 0 if most have one of their own."""
    most = min(_VALUES, count // 8)
    if len(np.unique(some)) > most:
        return 0
    values = len(np.unique(w[~dead]))
    return values if values <= most else 0


def _share(model: keras.Model) -> float:
    """The ratio by which a global mask takes all zeros of the kernels that are pruned by default."""
    every = [lent(kernel.variable) for kernel in kernels(model)]
    zeros, count = sum(int(np.count_nonzero(w == 0)) for w in every), sum(w.size for w in every)
    return math.ceil(zeros / count * 1e4 - 1e-6) / 1e4


def _held(variable: keras.Variable) -> Iterator[Attached]:
    one = variable.constraint
    while isinstance(one, Attached):
        yield one
        one = one.before
