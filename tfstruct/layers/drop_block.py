"""`DropBlock1D`, `DropBlock2D`: neighbouring entries of a feature map are dropped together."""

import keras
from keras import ops

from tfstruct.arguments import require_count, require_number, require_one_of
from tfstruct.graph import training_only
from tfstruct.layers.seeded import Seeded, require_seed


class _DropBlock(Seeded, keras.layers.Layer):
    _space: int

    def __init__(self, rate: float, block_size: int = 7, data_format=None, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.block_size = (
            require_number("rate", rate, least=0, below=1),
            require_count("block_size", block_size),
        )
        if data_format is not None:
            require_one_of("data_format", data_format, ("channels_first", "channels_last"))
        self.data_format = data_format or keras.config.image_data_format()
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(require_seed(seed))
        self.input_spec = keras.layers.InputSpec(ndim=self._space + 2)
        self.supports_masking = True

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        first = self.data_format == "channels_first"
        sizes = ops.shape(inputs)
        space = sizes[2:] if first else sizes[1:-1]
        mask = self._mask(sizes[0], space, sizes[1 if first else -1])
        return inputs * ops.cast(ops.moveaxis(mask, -1, 1) if first else mask, inputs.dtype)

    def _mask(self, batch, space, channels):
        """Factors of mean 1, in float32: (batch, *space, channels)."""
        sides = [min(self.block_size, n) if isinstance(n, int) else self.block_size for n in space]
        places = [n - side + 1 for n, side in zip(space, sides, strict=True)]
        gamma = self.rate
        for n, side, free in zip(space, sides, places, strict=True):
            gamma = gamma * ops.cast(n, "float32") / side / ops.cast(free, "float32")
        shape = (batch, *places, channels)
        starts = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator) < gamma
        # A block begins at each start and reaches `side` entries on: never over the border.
        around = [(0, 0), *((side - 1, side - 1) for side in sides), (0, 0)]
        starts = ops.pad(ops.cast(starts, "float32"), around)
        keep = 1 - ops.max_pool(starts, tuple(sides), 1, "valid", "channels_last")
        return keep / ops.maximum(ops.mean(keep), 1e-6)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "rate": self.rate,
            "block_size": self.block_size,
            "data_format": self.data_format,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="tfstruct")
class DropBlock1D(_DropBlock):
    """In training, drops stretches of `block_size` steps, each channel by itself; the identity in inference.

        gamma = rate / b * L / (L - b + 1),   starts ~ Bernoulli(gamma) on the L - b + 1 steps where a block fits
        y = x * m / mean(m),   m zero in the b steps from each start

    for L steps and b = min(block_size, L). The mean of the factors is exactly 1 in every draw, over the whole batch (of
    one replica). Blocks overlap, so a little less than `rate` is dropped.

    Args:
        rate: the share to drop, in [0, 1).
        block_size: steps of a block.
        data_format: `"channels_last"` or `"channels_first"`; Keras's setting by default.
        seed: of the draws.

    Input and output: (batch, steps, channels), or (batch, channels, steps). Where the number of steps is open, it has
    to be at least `block_size`.

    Raises:
        ArgumentError: an argument is out of range.

    Source: Ghiasi, Lin, Le, DropBlock, arXiv:1810.12890, Algorithm 1 and Eq. 1, for one axis.

    Example:
        >>> layer = tfstruct.layers.DropBlock1D(0.1, block_size=2)
        >>> layer(images[0], training=True).shape  # (samples, steps, channels)
        TensorShape([12, 12, 3])
    """

    _space = 1


@keras.saving.register_keras_serializable(package="tfstruct")
class DropBlock2D(_DropBlock):
    """In training, drops squares of `block_size` pixels, each channel by itself; the identity in inference.

        gamma = rate / b^2 * H W / ((H - b + 1) (W - b + 1)),   starts ~ Bernoulli(gamma) where a block fits
        y = x * m / mean(m),   m zero in the b x b pixels from each start

    with b = min(block_size, side) along each side. The mean of the factors is exactly 1 in every draw, over the whole
    batch (of one replica). Blocks overlap, so a little less than `rate` is dropped. The paper raises the rate from 0
    over the training; `rate` is a plain number here.

    Args:
        rate: the share to drop, in [0, 1).
        block_size: side of a block in pixels.
        data_format: `"channels_last"` or `"channels_first"`; Keras's setting by default.
        seed: of the draws.

    Input and output: (batch, height, width, channels), or (batch, channels, height, width). A side that is open has to
    be at least `block_size`.

    Raises:
        ArgumentError: an argument is out of range.

    Source: Ghiasi, Lin, Le, DropBlock, arXiv:1810.12890, Algorithm 1 and Eq. 1.

    Example:
        >>> layer = tfstruct.layers.DropBlock2D(0.1, block_size=3)
        >>> bool((layer(images, training=True).numpy() == 0).any())
        True
    """

    _space = 2


training_only(DropBlock1D, DropBlock2D)
