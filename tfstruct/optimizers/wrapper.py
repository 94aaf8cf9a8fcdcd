"""What optimizers around another optimizer have in common."""

import keras

from tfstruct.errors import ArgumentError
from tfstruct.keras_internals.optimizers import check_trained, counter_of, trained_by
from tfstruct.optimizers.replicas import project

_INNER = "weight_decay, clipping, EMA, gradient accumulation, loss scaling and the learning rate belong to it"


class Wrapper(keras.optimizers.Optimizer):
    """An optimizer that does something around the step of another one.

    The inner optimizer owns all that Keras optimizers have in common: learning rate, iterations, weight decay,
    clipping, EMA, gradient accumulation and the loss scale. A wrapper only has its own state. `LossScaleOptimizer`
    goes around a wrapper, not into it; `model.compile` puts it there under mixed_float16.

    A subclass overrides `around(grads, variables)`, and `build` if it has variables. What it assigns to weights is held
    to their constraints afterwards, as Keras does with an optimizer's own step.
    """

    def __init__(self, optimizer, name=None, **kwargs):
        if kwargs:
            raise ArgumentError(
                f"{type(self).__name__} does not take {', '.join(kwargs)}. Give it to the inner optimizer: {_INNER}."
            )
        try:
            inner = keras.optimizers.get(optimizer)
        except (ValueError, TypeError, KeyError):
            inner = None
        if not isinstance(inner, keras.optimizers.Optimizer):
            raise ArgumentError(f"`optimizer` must be a Keras optimizer, or the name of one. Received: {optimizer!r}.")
        if isinstance(inner, keras.optimizers.LossScaleOptimizer):
            raise ArgumentError(
                f"LossScaleOptimizer goes around the others: LossScaleOptimizer({type(self).__name__}(optimizer))."
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner

    def build(self, variables):
        if self.built:
            return
        self.inner_optimizer.build(variables)
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        if not len(grads):
            return
        if not self.built:
            self.build(list(trainable_variables))
        variables = trained_by(self) if trainable_variables is None else list(trainable_variables)
        check_trained(self, variables)
        self.around(list(grads), variables)
        project(variables)

    def around(self, grads: list, variables: list) -> None:
        self.inner_optimizer.apply(grads, variables)

    def apply_gradients(self, grads_and_vars):
        super().apply_gradients(grads_and_vars)
        return counter_of(self.inner_optimizer)

    @property
    def variables(self):
        return [*super().variables, *self.inner_optimizer.variables]

    def set_weights(self, weights):
        if not self.built:
            super().set_weights(weights)  # says what to do
        for variable, weight in zip(self.variables, weights, strict=True):
            variable.assign(weight)

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.inner_optimizer.learning_rate = value

    @property
    def iterations(self):
        """Updates so far: of the inner optimizer, and with gradient accumulation not every call."""
        return self.inner_optimizer.iterations

    @property
    def loss_scale_factor(self):
        inner = getattr(self, "inner_optimizer", None)
        return None if inner is None else inner.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, value):
        # LossScaleOptimizer switches it off; Keras's constructor sets it before there is an inner optimizer.
        if getattr(self, "inner_optimizer", None) is not None:
            self.inner_optimizer.loss_scale_factor = value

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        self.inner_optimizer.exclude_from_weight_decay(var_list=var_list, var_names=var_names)

    def get_config(self):
        return {"name": self.name, "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["optimizer"] = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects=custom_objects)
        return cls(**config)
