"""`Momentum`: gradient descent along an exponential average of the gradients."""

import keras
from keras import ops

from tfstruct.arguments import checked, require_number
from tfstruct.keras_internals.optimizers import place_of
from tfstruct.optimizers.arguments import checked_rate


@checked
@keras.saving.register_keras_serializable(package="tfstruct")
class Momentum(keras.optimizers.Optimizer):
    """Goes down along the exponential average of the gradients.

    ```
    v <- beta * v + (1 - beta) * g
    w <- w - learning_rate * v
    ```

    The average keeps the size of a gradient, whatever `beta`: steps are `1 / (1 - beta)` times smaller than those of
    `keras.optimizers.SGD(learning_rate, momentum=beta)`, whose velocity is a sum. At `beta=0` this is plain gradient
    descent, `w <- w - learning_rate * g`, and no average is stored.

    Args:
        learning_rate: a float, a `LearningRateSchedule`, or a function without arguments.
        beta: share of the old average that is kept, in [0, 1).
        **kwargs: `weight_decay`, `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`, `ema_momentum`,
            `ema_overwrite_frequency`, `loss_scale_factor`, `gradient_accumulation_steps`, `name`: as every Keras
            optimizer has them.

    Raises:
        ArgumentError: `beta` outside [0, 1), or a negative rate.

    Source: Polyak 1964, "Some methods of speeding up the convergence of iteration methods", in the averaged form.

    Example:
        >>> w = keras.Variable([1.0, 2.0])
        >>> tfstruct.optimizers.Momentum(0.5, beta=0.0).apply([np.float32([1.0, 6.0])], [w])
        >>> w.numpy().tolist()
        [0.5, -1.0]
    """

    def __init__(self, learning_rate=0.01, beta=0.9, **kwargs):
        super().__init__(learning_rate=checked_rate(learning_rate), **kwargs)
        self.beta = require_number("beta", beta, least=0, below=1)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._averages = self.add_optimizer_variables(variables, "average_gradient") if self.beta else []

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if not self.beta:
            self.assign_sub(variable, ops.multiply(gradient, rate))
            return
        average = self._averages[place_of(self, variable)]
        self.assign_add(average, ops.multiply(ops.subtract(gradient, average), 1 - self.beta))
        self.assign_sub(variable, ops.multiply(average, rate))

    def get_config(self):
        return {**super().get_config(), "beta": self.beta}
