"""A penalty that keeps filters orthogonal."""

import math

import keras
from keras import ops

from tfstruct.errors import ArgumentError
from tfstruct.regularizers.penalty import Penalty


@keras.saving.register_keras_serializable(package="tfstruct")
class Orthogonal(Penalty):
    """Keeps the filters of a kernel orthogonal and of norm 1 (soft orthogonality).

        penalty = strength * ||W^T W - I||_F^2

    with W of shape (rows, filters): a dense kernel as it is; a convolution's kernel (height, width, in, filters) as
    (height * width * in, filters). Where there are more filters than rows they cannot all be orthogonal: the rows
    become so instead, and the penalty ends at strength * (filters - rows). Keras's `OrthogonalRegularizer` is another
    one: of dense kernels only, and blind to the norms.

    Args:
        strength: at least 0.
        axis: the axis of the filters; -2 in the kernel of a transposed convolution.

    Source: Sec. 3.1, arXiv:1810.09102.

    Example:
        >>> penalty = tfstruct.regularizers.Orthogonal(1.0)
        >>> float(penalty(np.eye(3, dtype="float32")))
        0.0
    """

    def __init__(self, strength: float = 1e-4, axis: int = -1):
        super().__init__(strength)
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise ArgumentError(f"`axis` must be a whole number. Received: {axis!r}.")
        self.axis = axis

    def value(self, w):
        rank = len(w.shape)
        if rank < 2 or not -rank <= self.axis < rank:
            raise ArgumentError(
                f"Orthogonal expects a kernel of at least two axes, `axis` {self.axis} among them. Received: shape "
                f"{tuple(w.shape)}."
            )
        filters = w.shape[self.axis]
        rows = math.prod(w.shape) // filters
        w = ops.reshape(ops.moveaxis(w, self.axis, -1), (rows, filters))
        # ||W^T W - I||^2 = ||W W^T - I||^2 + filters - rows: the smaller product does.
        wide = filters > rows
        gram = ops.matmul(w, ops.transpose(w)) if wide else ops.matmul(ops.transpose(w), w)
        value = ops.sum(ops.square(gram - ops.eye(min(rows, filters), dtype=w.dtype)))
        return value + (filters - rows) if wide else value

    def get_config(self) -> dict:
        return {**super().get_config(), "axis": self.axis}
