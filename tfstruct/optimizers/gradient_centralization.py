"""`GradientCentralization`: gradients without their mean."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import ops

from tfstruct.arguments import checked
from tfstruct.errors import ArgumentError
from tfstruct.keras_internals.optimizers import is_replaced_by_gradient
from tfstruct.optimizers.wrapper import Wrapper


@checked
@keras.saving.register_keras_serializable(package="tfstruct")
class GradientCentralization(Wrapper):
    """Takes from the gradient of each kernel its mean over what an output sums over, then lets an optimizer step.

    ```
    g <- g - mean(g over all axes but the last)         for kernels of rank 2 or more
    ```

    So the sum of each output's weights stays what it was. Biases and scales are left alone, and so are sparse
    gradients: rows of an embedding are not summed over. Clipping, accumulation and loss scaling happen in the inner
    optimizer, behind it. The variable does not tell which axis counts its outputs; the last one is right for Dense and
    convolutions.

    Args:
        optimizer: a Keras optimizer.
        exclude: parts of paths of variables that are left alone; kernels of depthwise convolutions are by default, as
            their mean would run over channels that are never added up.

    Source: Yong et al., arXiv:2004.01461, Eq. 1.

    Example:
        >>> w = keras.Variable([[1.0], [1.0]])
        >>> optimizer = tfstruct.optimizers.GradientCentralization(keras.optimizers.SGD(1.0))
        >>> optimizer.apply([np.float32([[1.0], [3.0]])], [w])  # the gradient less its mean: -1 and 1
        >>> w.numpy().tolist()
        [[2.0], [0.0]]
    """

    def __init__(self, optimizer, exclude: Sequence[str] = ("depthwise", "embeddings"), name=None, **kwargs):
        super().__init__(optimizer, name=name, **kwargs)
        if isinstance(exclude, str):
            raise ArgumentError(f"`exclude` must be a list of parts of paths. Received the string {exclude!r}.")
        self.exclude = tuple(exclude)

    def around(self, grads, variables):
        super().around([self._central(g, v) for g, v in zip(grads, variables, strict=True)], variables)

    def _central(self, gradient, variable):
        path = getattr(variable, "path", variable.name)
        if gradient is None or len(variable.shape) < 2 or isinstance(gradient, tf.IndexedSlices):
            return gradient
        if any(part in path for part in self.exclude) or is_replaced_by_gradient(self, variable):
            return gradient
        return gradient - ops.mean(gradient, axis=list(range(len(variable.shape) - 1)), keepdims=True)

    def get_config(self):
        return {**super().get_config(), "exclude": list(self.exclude)}
