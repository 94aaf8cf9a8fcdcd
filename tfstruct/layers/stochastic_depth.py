"""`StochasticDepth`: the branch of a residual block is dropped whole, sample by sample."""

import keras
from keras import ops

from tfstruct.arguments import require_number
from tfstruct.graph import training_only
from tfstruct.layers.seeded import Seeded, require_seed


@keras.saving.register_keras_serializable(package="tfstruct")
class StochasticDepth(Seeded, keras.layers.Dropout):
    """In training, zeroes all of a sample with probability `rate`; the identity in inference.

        y[i] = b[i] * x[i] / (1 - rate),   b[i] ~ Bernoulli(1 - rate) for each sample i

    Put it on the branch, before the Add that joins it with the shortcut::

        x = layers.Add()([x, StochasticDepth(0.2)(branch(x))])

    The paper lets the survival 1 - rate fall with depth: rate = l / L * (1 - p_L) for block l of L. It scales by the
    survival in inference, we divide in training: the same in expectation, and nothing is left in inference.

    Args:
        rate: the probability that a sample skips the branch, in [0, 1).
        seed: of the draws.

    Raises:
        ArgumentError: `rate` is out of range.

    Source: Huang et al., Deep networks with stochastic depth, arXiv:1603.09382, Eq. 2, 4 and 5.

    Example:
        >>> layer = tfstruct.layers.StochasticDepth(0.5)
        >>> np.array_equal(layer(x), x)  # in inference
        True
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs):
        super().__init__(require_number("rate", rate, least=0, below=1), seed=require_seed(seed), **kwargs)

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        sizes = ops.shape(inputs)
        shape = (sizes[0], *(1,) * (len(sizes) - 1))
        return keras.random.dropout(inputs, self.rate, noise_shape=shape, seed=self.seed_generator)

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config


training_only(StochasticDepth)
