"""`TargetedDropout`: only the smallest weights or units are dropped."""

import keras
from keras import ops

from tfstruct.arguments import require_number, require_one_of
from tfstruct.errors import ArgumentError
from tfstruct.graph.operation_traits import layers_with
from tfstruct.layers.inner_layer import InnerLayer, call_with
from tfstruct.layers.seeded import uniform

# By the axis of the kernel that numbers their units.
_LAST, _BEFORE_LAST = layers_with("dense", "conv"), layers_with("transposed")
_DEPTHWISE = layers_with("depthwise")


@keras.saving.register_keras_serializable(package="tfstruct")
class TargetedDropout(InnerLayer):
    """In training, the smallest weights of the layer inside are dropped; it learns to do without them.

        weight: of each output unit, the floor(target * n) weights of least |w| among its n
        unit:   of the layer's n output units, the floor(target * n) of least |w|_2
        a targeted weight or unit is zero with probability `rate`, otherwise 1 / (1 - rate) of itself

    All others stay as they are. In inference it is the layer as it is; what is then cut is up to `surgery`. The
    factor keeps the expectation; the paper has none, `rescale=False`.

    Args:
        layer: Dense, a convolution, a transposed or a depthwise one.
        rate: in [0, 1); without `rescale` also 1.
        target: the share of weights, or units, that are candidates, in [0, 1].
        mode: `"weight"` or `"unit"`.
        rescale: whether what was targeted and stays is multiplied by 1 / (1 - rate).
        seed: of the draws.

    Raises:
        ArgumentError: an argument is out of range, or the layer has no units with a kernel.

    Source: Gomez et al., Learning sparse networks using targeted dropout, arXiv:1905.13678, Sec. 3.

    Example:
        >>> layer = tfstruct.layers.TargetedDropout(keras.layers.Dense(4), rate=0.5, target=0.75)
        >>> layer(x, training=True).shape
        TensorShape([64, 4])
    """

    def __init__(
        self,
        layer,
        rate: float,
        target: float = 0.5,
        mode: str = "weight",
        rescale: bool = True,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(layer, seed, **kwargs)
        if not isinstance(mode, str) or mode not in ("weight", "unit"):
            raise ArgumentError(f'`mode` must be "weight" or "unit". Received: {mode!r}.')
        require_one_of("rescale", rescale, (False, True))
        if not isinstance(layer, (*_LAST, *_BEFORE_LAST, *_DEPTHWISE)):
            raise ArgumentError(
                f"TargetedDropout knows the units of Dense and convolution layers. Received: {type(layer).__name__}."
            )
        self.rate = require_number("rate", rate, least=0, most=None if rescale else 1, below=1 if rescale else None)
        self.target = require_number("target", target, least=0, most=1)
        self.mode, self.rescale = mode, rescale

    def in_training(self, inputs):
        kernel = self.layer.kernel
        return call_with(self.layer, [(kernel, self._dropped(ops.convert_to_tensor(kernel)))], inputs)

    def targeted(self):
        """Which weights are candidates now: 1.0 or 0.0, in the kernel's shape."""
        return self._targeted(ops.convert_to_tensor(self.layer.kernel))

    def _targeted(self, kernel):
        axes, shape = self._other_axes(kernel), kernel.shape
        units = [i for i in range(len(shape)) if i not in axes]
        size = ops.abs(ops.stop_gradient(ops.cast(kernel, "float32")))
        if self.mode == "unit":
            size = ops.sqrt(ops.sum(ops.square(size), axis=axes))
            chosen = ops.reshape(_smallest(ops.reshape(size, (1, -1)), self.target), size.shape)
            for axis in axes:
                chosen = ops.expand_dims(chosen, axis)
            return ops.broadcast_to(chosen, shape)
        order = [*units, *axes]
        moved = ops.transpose(size, order)
        wide = 1
        for axis in axes:
            wide *= shape[axis]
        chosen = ops.reshape(_smallest(ops.reshape(moved, (-1, wide)), self.target), moved.shape)
        return ops.transpose(chosen, [order.index(i) for i in range(len(shape))])

    def _dropped(self, kernel):
        targeted = self._targeted(kernel)
        shape = list(kernel.shape)
        if self.mode == "unit":
            shape = [1 if i in self._other_axes(kernel) else n for i, n in enumerate(shape)]
        keep = ops.cast(uniform(shape, self.seed_generator) >= self.rate, "float32")
        if self.rescale:
            keep = keep / (1 - self.rate)
        return kernel * ops.cast(1 - targeted + targeted * keep, kernel.dtype)

    def _other_axes(self, kernel) -> list[int]:
        """The axes of the kernel that do not number its output units."""
        rank = len(kernel.shape)
        if isinstance(self.layer, _DEPTHWISE):
            return list(range(rank - 2))
        return [i for i in range(rank) if i != (rank - 2 if isinstance(self.layer, _BEFORE_LAST) else rank - 1)]

    def get_config(self):
        return {
            **super().get_config(),
            "rate": self.rate,
            "target": self.target,
            "mode": self.mode,
            "rescale": self.rescale,
        }


def _smallest(rows, share: float):
    """Of each row, 1.0 for the `floor(share * n)` smallest; of equal ones the first."""
    count = int(share * rows.shape[-1] + 1e-9)
    ranks = ops.argsort(ops.argsort(rows, axis=-1), axis=-1)
    return ops.cast(ranks < count, "float32")
