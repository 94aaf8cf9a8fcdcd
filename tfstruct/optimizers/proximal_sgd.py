"""`ProximalSGD`: gradient descent with exact zeros."""

import keras

from tfstruct.arguments import require_number
from tfstruct.errors import ArgumentError
from tfstruct.optimizers.arguments import checked_rate
from tfstruct.optimizers.proximal_step import ProximalStep
from tfstruct.optimizers.replicas import assign, read


@keras.saving.register_keras_serializable(package="tfstruct")
class ProximalSGD(ProximalStep, keras.optimizers.SGD):
    """Gradient descent on the loss, and a proximal step on a penalty: weights become exactly zero.

    ```
    w_{t+1} <- prox(w_t - learning_rate * g + momentum * (w_t - w_{t-1}))
    prox(w) = argmin over u of ||u - w||^2 / (2 * learning_rate) + penalty(u)
    ```

    Momentum is of the weights as they are after the prox, so that it comes to rest where `loss + penalty` is least,
    whatever the momentum; behind SGD's sum of gradients alone, the penalty would count `1 - momentum` times. Decoupled
    weight decay and the prox come one after the other. With a list of penalties their operators run in that order:
    `[L1, Filters]` is the prox of both together (sparse group lasso), other mixtures are approximations. Where EMA is
    on, an entry that is zero is zero in the average too. Gradients of embeddings may be sparse; the prox looks at the
    whole table.

    Args:
        penalty: of `tfstruct.optimizers.proximal`: `L1`, `Filters`, `ChannelGroups`, `NM`; or a list of them.
        learning_rate: a float, a schedule, or a function. The step size of the prox too.
        momentum: in [0, 1).
        **kwargs: what every Keras optimizer has: weight decay, clipping, EMA, accumulation, loss scaling, `name`.

    Raises:
        ArgumentError: no penalty, a negative rate, momentum outside [0, 1); on build, a penalty that does not fit.

    Source: Parikh & Boyd 2014, "Proximal Algorithms", Section 4.2; with momentum iPiano, Ochs et al., arXiv:1404.4805,
    Eq. 6.

    Example:
        >>> w = keras.Variable([[1.0, 0.01]])
        >>> optimizer = tfstruct.optimizers.ProximalSGD(tfstruct.optimizers.proximal.L1(0.5), learning_rate=0.1)
        >>> optimizer.apply([np.zeros((1, 2), "float32")], [w])  # each goes 0.1 * 0.5 towards zero, and no further
        >>> w.numpy().tolist()
        [[0.949..., 0.0]]
    """

    def __init__(self, penalty, learning_rate=0.01, momentum=0.0, **kwargs):
        if "nesterov" in kwargs:
            raise ArgumentError("ProximalSGD has no `nesterov`: its momentum is of the weights behind the prox.")
        super().__init__(
            learning_rate=checked_rate(learning_rate),
            momentum=require_number("momentum", momentum, least=0, below=1),
            **kwargs,
        )
        self._set_penalty(penalty)

    def _moved_on(self, moves):
        if self.momentum:
            slots = [self.momentums[i] for i, _ in moves]
            assign(slots, [old + move for old, (_, move) in zip(read(slots), moves, strict=True)])

    def get_config(self):
        config = super().get_config()
        del config["nesterov"]
        return config
