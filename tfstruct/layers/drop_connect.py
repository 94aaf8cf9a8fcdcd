"""`DropConnect`: weights of a layer are dropped, not activations."""

import keras
from keras import ops

from tfstruct.arguments import require_number
from tfstruct.layers.inner_layer import InnerLayer, call_with, kernels
from tfstruct.layers.seeded import uniform


@keras.saving.register_keras_serializable(package="tfstruct")
class DropConnect(InnerLayer):
    """In training, each weight of the layer inside is zero with probability `rate`; in inference all are there.

        y = layer(x; W * m / (1 - rate)),   m ~ Bernoulli(1 - rate) for each weight

    One draw for a batch; in a recurrent layer also for all time steps. All weights of two axes or more are dropped
    (kernels, recurrent kernels, embeddings), those of layers inside the layer too; biases and normalizations stay. The
    expectation of a weight is the weight, so that of a linear layer's output is kept.

    Args:
        layer: any layer of one input tensor.
        rate: in [0, 1).
        seed: of the draws.

    Raises:
        ArgumentError: `rate` is out of range; or, when it is built, the layer has nothing to drop.

    Source: Wan et al., Regularization of neural networks using DropConnect, ICML 2013, Eq. 4 and Sec. 3; at inference
    the mean of the weights in place of the paper's Gaussian samples.

    Example:
        >>> noisy = tfstruct.layers.DropConnect(keras.layers.Dense(4), rate=0.3)
        >>> noisy(x).shape
        TensorShape([64, 4])
    """

    def __init__(self, layer: keras.layers.Layer, rate: float, seed: int | None = None, **kwargs):
        super().__init__(layer, seed, **kwargs)
        self.rate = require_number("rate", rate, least=0, below=1)

    def build(self, input_shape=None):
        super().build(input_shape)
        kernels(self)

    def in_training(self, inputs):
        if not self.rate:
            return self.layer(inputs)
        return call_with(self.layer, [(w, self._dropped(w)) for w in kernels(self)], inputs)

    def _dropped(self, weight):
        keep = uniform(weight.shape, self.seed_generator) >= self.rate
        value = ops.convert_to_tensor(weight)
        return ops.where(keep, value / (1 - self.rate), ops.zeros_like(value))

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}
