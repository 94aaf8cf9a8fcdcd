"""What of a model training would undo: zeros and shared values that nothing attached to it holds."""

import dataclasses
import math
from collections.abc import Iterator

import keras
import numpy as np

from tfstruct.callbacks.constraints import Attached
from tfstruct.errors import ModelError
from tfstruct.graph.kernels import Kernel, kernels

_FEW = 0.05  # of a kernel: fewer zeros than these are not worth a word
_VALUES = 256  # a kernel that shares values has at most so many, and eight weights for each


@dataclasses.dataclass(frozen=True)
class _Found:
    """What one kernel has that is not held: how many zeros, how many shared values."""

    kernel: Kernel
    zeros: int
    values: int

    def __str__(self) -> str:
        what = [f"{self.zeros / self.kernel.variable.numpy().size:.0%} zeros"] if self.zeros else []
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
    w = kernel.variable.numpy()
    alive = w[w != 0]
    if not alive.size or (alive == alive[0]).all():
        return None
    held = list(_held(kernel.variable))
    lost = w == 0
    for one in held:
        lost &= ~one.keeps_zero(w)
    zeros = int(lost.sum())
    values = 0 if any(one.shares for one in held) else _shared_values(alive)
    return _Found(kernel, zeros if zeros > _FEW * w.size else 0, values) if zeros > _FEW * w.size or values else None


def _shared_values(alive: np.ndarray) -> int:
    """How many values these weights share; 0 if most have one of their own."""
    most = min(_VALUES, alive.size // 8)
    if len(np.unique(alive[: 8 * _VALUES])) > most:
        return 0
    values = len(np.unique(alive))
    return values if values <= most else 0


def _share(model: keras.Model) -> float:
    """The ratio by which a global mask takes all zeros of the kernels that are pruned by default."""
    every = [kernel.variable.numpy() for kernel in kernels(model)]
    zeros, count = sum(int((w == 0).sum()) for w in every), sum(w.size for w in every)
    return math.ceil(zeros / count * 1e4 - 1e-6) / 1e4


def _held(variable: keras.Variable) -> Iterator[Attached]:
    one = variable.constraint
    while isinstance(one, Attached):
        yield one
        one = one.before
