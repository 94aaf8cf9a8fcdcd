"""What an optimizer keeps, and the places of its step where something of ours acts."""

import keras


def trained_by(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The weights that an optimizer was built for, in its order."""
    return list(optimizer._trainable_variables)


def check_trained(optimizer: keras.optimizers.Optimizer, variables: list) -> None:
    """Raises Keras's error for weights that an optimizer was not built for."""
    optimizer._check_variables_are_known(variables)


def place_of(optimizer: keras.optimizers.Optimizer, variable) -> int:
    """The place of a weight in `trained_by`, and in every list of `add_optimizer_variables`."""
    return optimizer._get_variable_index(variable)


def is_replaced_by_gradient(optimizer: keras.optimizers.Optimizer, variable) -> bool:
    """Whether the step puts the gradient in a variable's place: scales of float8 training."""
    return optimizer._overwrite_variable_with_gradient(variable)


def averages_of(optimizer) -> list:
    """The moving average of each weight (`use_ema`) in the order of `trained_by`, None for a weight that has none.

    Empty for an optimizer without averages.
    """
    return list(getattr(optimizer, "_model_variables_moving_average", None) or ())


def moments_of(optimizer: keras.optimizers.Adam, variable) -> tuple:
    """Adam's averages of a weight's gradient, of its square, and the largest of these (`amsgrad`, else None)."""
    index = place_of(optimizer, variable)
    largest = optimizer._velocity_hats[index] if optimizer.amsgrad else None
    return optimizer._momentums[index], optimizer._velocities[index], largest


def counter_of(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """The variable that counts the calls of `apply`, those that only accumulate gradients too."""
    return optimizer._iterations


def schedule_of(optimizer: keras.optimizers.Optimizer):
    """The learning rate as it was given: a schedule or a function, where `optimizer.learning_rate` is its value."""
    return optimizer._learning_rate


def slots_of(optimizer: keras.optimizers.Optimizer) -> dict[str, list]:
    """Attribute -> a variable for each weight, of the weight's shape: momentums and their like."""
    references = trained_by(optimizer)
    kept = {name: value for name, value in vars(optimizer).items() if name != "_trainable_variables"}
    return {name: value for name, value in kept.items() if _are_slots(value, references)}


def _are_slots(value, references: list) -> bool:
    return (
        isinstance(value, list)
        and len(value) == len(references)
        and all(
            hasattr(v, "shape") and tuple(v.shape) == tuple(r.shape) for v, r in zip(value, references, strict=True)
        )
    )


class StepHooks:
    """Before a Keras optimizer among the bases: two places of its step where a subclass acts.

    They run where the update runs: behind clipping and weight decay, only in steps that update (gradient accumulation).
    """

    def after_update(self, learning_rate) -> None:
        """Called behind the update of all weights, before moving averages and constraints."""

    def after_averaging(self, variables: list, averages: list) -> None:
        """Called when the moving averages of `use_ema` have followed the weights."""

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        super()._backend_update_step(grads, trainable_variables, learning_rate)  # type: ignore[misc]  # see the class
        self.after_update(learning_rate)

    def _update_model_variables_moving_average(self, trainable_variables):
        super()._update_model_variables_moving_average(trainable_variables)  # type: ignore[misc]  # see the class
        self.after_averaging(list(trainable_variables), averages_of(self))
