"""`ConcreteDropout`: dropout before a layer, at a rate that is learned."""

import math

import keras
import numpy as np
from keras import ops

from tfstruct.arguments import require_number
from tfstruct.errors import ArgumentError
from tfstruct.graph.operation_traits import layers_with
from tfstruct.layers.inner_layer import InnerLayer, kernels
from tfstruct.layers.seeded import uniform

_CONVS = layers_with("conv", "transposed", "depthwise", "separable")


@keras.saving.register_keras_serializable(package="tfstruct")
class ConcreteDropout(InnerLayer):
    """In training, dropout on what the layer inside reads, at a rate p that is trained with the weights.

        z = sigmoid((log p - log(1 - p) + log u - log(1 - u)) / temperature),   u ~ U(0, 1)
        y = layer(x * (1 - z) / (1 - p))
        loss += weight_regularizer * sum(W^2) / (1 - p) + dropout_regularizer * K * (p log p + (1 - p) log(1 - p))

    with p = sigmoid(`rate_logit`) and K channels that come in. Convolutions drop whole channels, others single
    entries. The terms are added in training only. In inference it is the layer as it is. The expectation is kept up to
    the relaxation: a temperature of 0.1 moves the mean of z by less than 0.01 from p.

    Args:
        layer: any layer of one input tensor and a kernel.
        rate: p at first, in (0, 1).
        weight_regularizer: l^2 / (tau N) for a prior length scale l, model precision tau and N training samples.
        dropout_regularizer: 2 / (tau N) for regression, 1 / N for classification.
        temperature: of the relaxation, above 0.
        seed: of the draws.

    Raises:
        ArgumentError: an argument is out of range; or, when it is built, the layer has no kernel.

    Source: Gal, Hron, Kendall, Concrete Dropout, arXiv:1705.07832, Eq. 3, 4 and 5.

    Example:
        >>> layer = tfstruct.layers.ConcreteDropout(keras.layers.Dense(4), rate=0.1)
        >>> layer(x).shape
        TensorShape([64, 4])
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        rate: float = 0.1,
        weight_regularizer: float = 1e-6,
        dropout_regularizer: float = 1e-5,
        temperature: float = 0.1,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(layer, seed, **kwargs)
        self.rate = require_number("rate", rate, least=0, below=1)
        if not rate:
            raise ArgumentError("`rate` must be above 0, where the learned rate can start from. Received: 0.")
        self.weight_regularizer = require_number("weight_regularizer", weight_regularizer, least=0)
        self.dropout_regularizer = require_number("dropout_regularizer", dropout_regularizer, least=0)
        self.temperature = require_number("temperature", temperature, above=0)

    def build(self, input_shape=None):
        super().build(input_shape)
        kernels(self)
        start = keras.initializers.Constant(math.log(self.rate / (1 - self.rate)))
        self.rate_logit = self.add_weight(
            shape=(), initializer=start, dtype="float32", name="rate_logit", autocast=False
        )

    @property
    def learned_rate(self) -> float:
        """p as it is now."""
        return float(1 / (1 + np.exp(-float(self.rate_logit.numpy()))))

    def in_training(self, inputs):
        logit = ops.convert_to_tensor(self.rate_logit)
        shape = list(ops.shape(inputs))
        axis = 1 if getattr(self.layer, "data_format", None) == "channels_first" else len(shape) - 1
        if isinstance(self.layer, _CONVS):
            shape = [n if i in (0, axis) else 1 for i, n in enumerate(shape)]
        u = uniform(shape, self.seed_generator)
        z = ops.sigmoid((logit + ops.log(u) - ops.log(1 - u)) / self.temperature)
        p = ops.sigmoid(logit)
        self.add_loss(self._terms(p, inputs.shape[axis]))
        return self.layer(inputs * ops.cast((1 - z) / (1 - p), inputs.dtype))

    def _terms(self, p, channels: int):
        squares = sum(ops.sum(ops.square(ops.cast(w, "float32"))) for w in kernels(self))
        entropy = p * ops.log(p) + (1 - p) * ops.log(1 - p)
        return self.weight_regularizer * squares / (1 - p) + self.dropout_regularizer * channels * entropy

    def get_config(self):
        return {
            **super().get_config(),
            "rate": self.rate,
            "weight_regularizer": self.weight_regularizer,
            "dropout_regularizer": self.dropout_regularizer,
            "temperature": self.temperature,
        }
