"""`ProximalAdam`: Adam with exact zeros."""

import keras

from tfstruct.optimizers.adam import Adam
from tfstruct.optimizers.proximal_step import ProximalStep


@keras.saving.register_keras_serializable(package="tfstruct")
class ProximalAdam(ProximalStep, Adam):
    """Adam on the loss, and a proximal step on a penalty: weights become exactly zero.

    ```
    w <- prox(w - learning_rate * c_t * m / (sqrt(v) + epsilon))
    prox(w) = argmin over u of ||u - w||^2 / (2 * learning_rate) + penalty(u)
    ```

    The metric of the prox is the plain one, with `learning_rate` as its step, and not Adam's diagonal
    `sqrt(v) + epsilon`: the penalty is decoupled from the gradient's scale as AdamW decouples weight decay. A norm over
    a group has no closed prox in a diagonal metric, one rule should serve all penalties, and weights with small
    gradients are not thresholded out for that alone. What follows: `strength` is compared with Adam's normalized
    steps, which are about 1, not with the gradient; at rest `loss + penalty` itself is not at its least. Where that
    counts, use `ProximalSGD`.

    Args:
        penalty: of `tfstruct.optimizers.proximal`: `L1`, `Filters`, `ChannelGroups`, `NM`; or a list, see
            `ProximalSGD`.
        learning_rate, beta_1, beta_2, epsilon, amsgrad, bias_correction: as in `Adam`.
        **kwargs: what every Keras optimizer has: weight decay, clipping, EMA, accumulation, loss scaling, `name`.

    Raises:
        ArgumentError: no penalty, a negative rate, betas outside [0, 1); on build, a penalty that does not fit.

    Source: ProxGen, Yun et al., arXiv:2007.12684, with the identity as the prox's metric; AdamW, arXiv:1711.05101.

    Example:
        >>> penalty = tfstruct.optimizers.proximal.L1(1e-3)
        >>> model.compile(tfstruct.optimizers.ProximalAdam(penalty, learning_rate=0.01), "mse")
    """

    def __init__(self, penalty, learning_rate=0.001, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self._set_penalty(penalty)
