"""`VariationalDropout`: every weight has a dropout rate of its own, and those that come to be noise are zero."""

import keras
import numpy as np
from keras import layers, ops

from tfstruct.arguments import is_number, require_number
from tfstruct.errors import ArgumentError
from tfstruct.graph import Call
from tfstruct.graph.operation_traits import layers_with
from tfstruct.layers.inner_layer import InnerLayer, call_with

_LAYERS = layers_with("dense", "conv")
_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695  # the fit of Eq. 14


@keras.saving.register_keras_serializable(package="tfstruct")
class VariationalDropout(InnerLayer):
    """In training, weights are Gaussians w ~ N(theta, sigma^2) whose noise is learned; noisy weights are zero after.

        y ~ N(x * theta + b, x^2 * sigma^2),   then the activation
        log alpha = log sigma^2 - log theta^2,   within [-8, 8]
        KL = sum over weights of k1 - k1 sigmoid(k2 + k3 log alpha) + log(1 + 1 / alpha) / 2
        loss += kl_weight * KL,   in training only

    with k1, k2, k3 = 0.63576, 1.8732, 1.48695; `*` is the layer's product or convolution. In inference a weight is
    theta where log alpha < `threshold` and exactly zero elsewhere: `sparsity()` says for how many. `inference_layer()`
    is the plain layer with the zeros in its kernel (`tfstruct.layers.finalize` for a whole model), of which
    `surgery.shrink` takes the channels that nothing reads or that are zero.

    Args:
        layer: Dense, Conv1D, Conv2D or Conv3D; its kernel is theta.
        kl_weight: 1 / N for N training samples and a loss that is a mean; raise it for more zeros. `layer.kl_weight`
            is a variable that may be assigned while training, from 0 in the first epochs as the paper does it.
        threshold: on log alpha; 3 is a dropout rate of 0.95.
        initial_log_variance: log sigma^2 at first.
        seed: of the draws.

    Raises:
        ArgumentError: an argument is out of range, or the layer is of another kind.

    Source: Molchanov, Ashukha, Vetrov, Variational dropout sparsifies deep neural networks, arXiv:1701.05369,
    Eq. 14, 17 and 18; local reparameterization: Kingma et al., arXiv:1506.02557.

    Example:
        >>> layer = tfstruct.layers.VariationalDropout(keras.layers.Dense(4), kl_weight=1 / 64)
        >>> layer(x).shape
        TensorShape([64, 4])
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        kl_weight: float,
        threshold: float = 3.0,
        initial_log_variance: float = -10.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(layer, seed, **kwargs)
        if not isinstance(layer, _LAYERS):
            raise ArgumentError(f"Expected Dense, Conv1D, Conv2D or Conv3D. Received: {type(layer).__name__}.")
        if not is_number(threshold) or not -8 < threshold < 8:
            raise ArgumentError(f"`threshold` must be between -8 and 8, as log alpha is. Received: {threshold!r}.")
        require_number("initial_log_variance", initial_log_variance)
        self.initial_kl_weight = require_number("kl_weight", kl_weight, least=0)
        self.threshold, self.initial_log_variance = float(threshold), float(initial_log_variance)

    def build(self, input_shape=None):
        super().build(input_shape)
        start = keras.initializers.Constant
        self.log_variance = self.add_weight(
            shape=self.layer.kernel.shape,
            initializer=start(self.initial_log_variance),
            dtype="float32",
            name="log_variance",
            autocast=False,
        )
        self.kl_weight = self.add_weight(
            shape=(),
            initializer=start(self.initial_kl_weight),
            dtype="float32",
            trainable=False,
            name="kl_weight",
            autocast=False,
            aggregation="only_first_replica",
        )

    def log_alpha(self):
        """log(sigma^2 / theta^2) of each weight, within [-8, 8]."""
        theta = ops.cast(self.layer.kernel, "float32")
        return ops.clip(self.log_variance - ops.log(ops.square(theta) + 1e-16), -8.0, 8.0)

    def sparsity(self) -> float:
        """The share of weights that are zero in inference."""
        return float(np.mean(ops.convert_to_numpy(self.log_alpha()) >= self.threshold))

    def divergence(self):
        """KL of all weights from the log-uniform prior, up to a constant."""
        a = self.log_alpha()
        return ops.sum(_K1 - _K1 * ops.sigmoid(_K2 + _K3 * a) + 0.5 * ops.softplus(-a))

    def in_training(self, inputs):
        layer = self.layer
        mean = self._linear(inputs, ops.convert_to_tensor(layer.kernel))
        x = ops.cast(inputs, "float32")  # a square soon leaves the range of float16
        # alpha * theta^2, as log alpha is clipped.
        theta = ops.cast(layer.kernel, "float32")
        variance = self._linear(ops.square(x), ops.exp(self.log_alpha()) * ops.square(theta))
        noise = keras.random.normal(ops.shape(variance), dtype="float32", seed=self.seed_generator)
        outputs = mean + ops.cast(ops.sqrt(ops.maximum(variance, 0.0) + 1e-8) * noise, mean.dtype)
        self.add_loss(self.kl_weight * self.divergence())
        if layer.bias is not None:
            outputs = outputs + self._by_channel(ops.convert_to_tensor(layer.bias), len(outputs.shape))
        return outputs if layer.activation is None else layer.activation(outputs)

    def in_inference(self, inputs):
        return call_with(self.layer, [(self.layer.kernel, self._sparse_kernel())], inputs)

    def inference_layer(self) -> keras.layers.Layer:
        made = super().inference_layer()
        made.kernel.assign(self._sparse_kernel())
        return made

    def _sparse_kernel(self):
        kernel = ops.convert_to_tensor(self.layer.kernel)
        return ops.where(self.log_alpha() < self.threshold, kernel, ops.zeros_like(kernel))

    def _linear(self, x, kernel):
        return ops.matmul(x, kernel) if isinstance(self.layer, layers.Dense) else self.layer.convolution_op(x, kernel)

    def _by_channel(self, bias, rank: int):
        if getattr(self.layer, "data_format", None) == "channels_first":
            return ops.reshape(bias, (1, -1, *(1,) * (rank - 2)))
        return bias

    def tie(self, call: Call) -> None:
        call.weight_like(self.log_variance, self.layer.kernel)

    def get_config(self):
        return {
            **super().get_config(),
            "kl_weight": self.initial_kl_weight,
            "threshold": self.threshold,
            "initial_log_variance": self.initial_log_variance,
        }
