"""`HardConcrete`: a gate for each channel, which learns to close."""

import math

import keras
import numpy as np
from keras import ops

from tfstruct.arguments import require_number
from tfstruct.errors import ArgumentError
from tfstruct.graph import Call, Each, rule
from tfstruct.layers.seeded import Seeded, require_seed, uniform

_BETA, _GAMMA, _ZETA = 2 / 3, -0.1, 1.1


@keras.saving.register_keras_serializable(package="tfstruct")
class HardConcrete(Seeded, keras.layers.Layer):
    """Multiplies each channel by a gate in [0, 1]; a penalty on open gates closes those that earn too little.

        training:   s = sigmoid((log u - log(1 - u) + log alpha) / beta),   u ~ U(0, 1) for each sample and channel
                    z = clip(s * (zeta - gamma) + gamma, 0, 1),   y = x * z
                    loss += penalty * sum over channels of sigmoid(log alpha - beta log(-gamma / zeta))
        inference:  z = clip(sigmoid(log alpha) * (zeta - gamma) + gamma, 0, 1),   y = x * z

    with beta = 2/3, gamma = -0.1, zeta = 1.1. The sum is the expected number of open gates. Unlike a dropout the gate
    stays in inference: where log alpha < -2.4 it is exactly 0, above 2.4 exactly 1. It is no identity, and the mean of
    the draws is the gate only nearly.

    `tfstruct.layers.finalize` puts a frozen batch normalization of scale z in its place: `surgery.shrink` then removes
    the closed channels, and `surgery.fold_batch_norm` puts the rest into the layer before or behind. Best put behind a
    convolution or batch normalization and before the activation.

    Args:
        penalty: of one open gate on the loss, 0 or larger: lambda / N of the paper for N samples.
        rate: the probability with which a gate starts closed, about; in (0, 1).
        axis: of the channels.
        seed: of the draws and of the gates at first.

    Raises:
        ArgumentError: an argument is out of range.

    Source: Louizos, Welling, Kingma, Learning sparse neural networks through L0 regularization, arXiv:1712.01312,
    Eq. 10 to 13.

    Example:
        >>> layer = tfstruct.layers.HardConcrete(penalty=1e-3)
        >>> layer(x, training=True).shape
        TensorShape([64, 8])
    """

    def __init__(self, penalty: float, rate: float = 0.5, axis: int = -1, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.penalty = require_number("penalty", penalty, least=0)
        self.rate = require_number("rate", rate, least=0, below=1)
        if not rate:
            raise ArgumentError("`rate` must be above 0: a gate that cannot close learns nothing. Received: 0.")
        if not isinstance(axis, int) or axis == 0:
            raise ArgumentError(f"`axis` must be a whole number other than 0, the batch. Received: {axis!r}.")
        self.axis, self.seed = axis, seed
        self.seed_generator = keras.random.SeedGenerator(require_seed(seed))
        self.supports_masking = True

    def build(self, input_shape):
        if not -len(input_shape) < self.axis < len(input_shape) or input_shape[self.axis] is None:
            raise ArgumentError(f"Axis {self.axis} of {tuple(input_shape)} has no fixed number of channels to gate.")
        start = keras.initializers.RandomNormal(math.log((1 - self.rate) / self.rate), 0.01, seed=self.seed)
        self.log_alpha = self.add_weight(
            shape=(input_shape[self.axis],), initializer=start, dtype="float32", name="log_alpha", autocast=False
        )

    def gates(self) -> np.ndarray:
        """The gates of inference, one a channel."""
        return ops.convert_to_numpy(self._gates())

    def expected_open(self):
        """The expected number of open gates."""
        return ops.sum(ops.sigmoid(self.log_alpha - _BETA * math.log(-_GAMMA / _ZETA)))

    def _gates(self):
        return _stretched(ops.sigmoid(ops.convert_to_tensor(self.log_alpha)))

    def call(self, inputs, training=False):
        rank = len(inputs.shape)
        shape = [1] * rank
        shape[self.axis] = inputs.shape[self.axis]
        if not training:
            return inputs * ops.cast(ops.reshape(self._gates(), shape), inputs.dtype)
        self.add_loss(self.penalty * self.expected_open())
        u = uniform((ops.shape(inputs)[0], *shape[1:]), self.seed_generator)
        noise = ops.log(u) - ops.log(1 - u)
        z = _stretched(ops.sigmoid((noise + ops.reshape(self.log_alpha, shape)) / _BETA))
        return inputs * ops.cast(z, inputs.dtype)

    def inference_layer(self) -> keras.layers.Layer:
        """A frozen batch normalization that multiplies by the gates.

        Raises:
            ArgumentError: the layer was not built yet.
        """
        if not self.built:
            raise ArgumentError(f"`{self.name}` has no gates yet. Call it, or build it, first.")
        gates = self.gates()
        norm = keras.layers.BatchNormalization(
            self.axis, center=False, name=self.name, dtype=self.dtype_policy, trainable=False
        )
        norm.build(self.get_build_config()["input_shape"])
        norm.gamma.assign(gates * np.sqrt(1 + norm.epsilon))
        return norm

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "penalty": self.penalty,
            "rate": self.rate,
            "axis": self.axis,
            "seed": self.seed,
        }


def _stretched(s):
    return ops.clip(s * (_ZETA - _GAMMA) + _GAMMA, 0.0, 1.0)


@rule(HardConcrete)
def gated(call: Call):
    call.weight(call.op.log_alpha, Each(call.input.axes[call.op.axis]))
    call.in_place = True
    return call.input.axes
