"""A kernel that averages what it reads."""

import math

import keras
from keras import ops

from tfstruct.errors import ArgumentError


@keras.saving.register_keras_serializable(package="tfstruct")
class Mean(keras.Initializer):
    """Makes a layer the average of its inputs: every weight of a kernel is 1 / fan_in.

        dense, of shape (in, units):                     W = 1 / in
        convolution, of shape (height, width, in, out):  W = 1 / (height * width * in)
        depthwise, of shape (height, width, in, m):      W = 1 / (height * width)

    so that with zero biases a `Dense` puts out the mean of its inputs, a convolution the mean of its window over all
    channels, and a depthwise convolution of padding "valid" what `AveragePooling` does. All units of a dense layer or
    convolution start equal: for layers that shall learn different things, use it on one unit, or on depthwise kernels.

    Args:
        depthwise: whether the kernel is that of a depthwise convolution, whose channels are not mixed. A shape does
            not tell.

    Example:
        >>> layer = keras.layers.Dense(1, kernel_initializer=tfstruct.initializers.Mean())
        >>> np.allclose(layer(x)[:, 0], x.mean(axis=1), atol=1e-6)
        True
    """

    def __init__(self, depthwise: bool = False):
        if not isinstance(depthwise, bool):
            raise ArgumentError(f"`depthwise` must be True or False. Received: {depthwise!r}.")
        self.depthwise = depthwise

    def __call__(self, shape, dtype=None):
        shape, least = tuple(shape), 3 if self.depthwise else 2
        if len(shape) < least:
            raise ArgumentError(
                f"Mean{'(depthwise=True)' if self.depthwise else ''} fills kernels of at least {least} axes. Received: "
                f"shape {shape}. Use Zeros for a bias."
            )
        fan_in = math.prod(shape[: -2 if self.depthwise else -1])
        return ops.full(shape, 1 / fan_in, dtype=dtype or keras.config.floatx())

    def get_config(self) -> dict:
        return {"depthwise": self.depthwise}
