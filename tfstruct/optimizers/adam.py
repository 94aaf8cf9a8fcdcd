"""`Adam`, with and without the correction of its averages' start."""

import keras
from keras import ops

from tfstruct.arguments import checked, require_number
from tfstruct.keras_internals.optimizers import moments_of
from tfstruct.optimizers.arguments import checked_rate


@checked
@keras.saving.register_keras_serializable(package="tfstruct")
class Adam(keras.optimizers.Adam):
    """Adam in both published forms.

    ```
    m <- beta_1 * m + (1 - beta_1) * g
    v <- beta_2 * v + (1 - beta_2) * g^2
    w <- w - learning_rate * c_t * m / (sqrt(v) + epsilon)
    ```

    With `bias_correction=True`, `c_t = sqrt(1 - beta_2^t) / (1 - beta_1^t)` at step t = 1, 2, ...: this is
    `keras.optimizers.Adam`, to the bit (Kingma & Ba, arXiv:1412.6980, the form before Section 2.1). With
    `bias_correction=False`, `c_t = 1`: the form in which BERT was trained (arXiv:1810.04805). The averages start at 0,
    so that its first steps are larger, by `1 / c_t`: about 3.2 times at the default betas; give it a warm-up.

    Args:
        learning_rate, beta_1, beta_2, epsilon, amsgrad: as in `keras.optimizers.Adam`.
        bias_correction: which of the forms.
        **kwargs: what every Keras optimizer has: weight decay, clipping, EMA, accumulation, loss scaling, `name`.

    Raises:
        ArgumentError: a beta outside [0, 1), `epsilon` not above 0, or a negative rate.

    Example:
        >>> w = keras.Variable(1.0)
        >>> tfstruct.optimizers.Adam(0.1, bias_correction=False).apply([np.float32(2.0)], [w])
        >>> round(float(w), 4)  # 1 - 0.1 * 0.2 / sqrt(0.004)
        0.6838
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        amsgrad=False,
        bias_correction=True,
        **kwargs,
    ):
        super().__init__(
            learning_rate=checked_rate(learning_rate),
            beta_1=require_number("beta_1", beta_1, least=0, below=1),
            beta_2=require_number("beta_2", beta_2, least=0, below=1),
            epsilon=require_number("epsilon", epsilon, above=0),
            amsgrad=amsgrad,
            **kwargs,
        )
        self.bias_correction = bool(bias_correction)

    def update_step(self, gradient, variable, learning_rate):
        if self.bias_correction:
            super().update_step(gradient, variable, learning_rate)
            return
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        m, v, largest = moments_of(self, variable)
        self.assign_add(m, ops.multiply(ops.subtract(gradient, m), 1 - self.beta_1))
        self.assign_add(v, ops.multiply(ops.subtract(ops.square(gradient), v), 1 - self.beta_2))
        if largest is not None:
            self.assign(largest, ops.maximum(largest, v))
            v = largest
        self.assign_sub(variable, ops.divide(ops.multiply(m, rate), ops.add(ops.sqrt(v), self.epsilon)))

    def get_config(self):
        return {**super().get_config(), "bias_correction": self.bias_correction}
