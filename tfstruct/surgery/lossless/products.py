"""Products with the weights that opened layers give out as tensors: `x @ w`."""

from collections.abc import Mapping

import numpy as np

from tfstruct.graph import Call
from tfstruct.graph.opening.parts import Constant, Weight
from tfstruct.keras_internals.operation_types import operation
from tfstruct.surgery.lossless.constants import along, handles


@handles(Weight)
def _weight(call, arrived, read):
    return read(call.op.value)


@handles(Constant)
def _constant(call, arrived, read):
    return np.asarray(call.op.array, np.float64) if call.op.array.dtype.kind in "fiu" else None


@handles(operation("Matmul"), local=False)
def _product(call, arrived, read):
    if not _has_kernel(call, arrived[-1]):
        return None
    kernel = arrived[1]
    x = along(arrived[0], call.input.rank - 1, len(kernel))
    hidden = (kernel[np.isnan(x)] != 0).any(0)
    made = np.where(hidden, np.nan, np.where(np.isnan(x), 0.0, x) @ kernel)
    return made.reshape((1,) * (len(call.shapes[0]) - 1) + (-1,))


def kernel_of(call: Call, values: Mapping[int, np.ndarray]) -> np.ndarray | None:
    """Shape (in, out): the weight with which a call multiplies the channels that it reads; None where it is another
    operation, or something else than a weight comes second."""
    if not isinstance(call.op, operation("Matmul")) or len(call.inputs) != 2:
        return None
    kernel = values.get(call.inputs[1].key)
    return kernel if kernel is not None and _has_kernel(call, kernel) else None


def _has_kernel(call: Call, kernel: np.ndarray) -> bool:
    same = len(call.inputs) == 2 and call.inputs[1].rank == 2 and call.input.rank > 1
    return same and kernel.shape == tuple(call.inputs[1].shape) and not np.isnan(kernel).any()
