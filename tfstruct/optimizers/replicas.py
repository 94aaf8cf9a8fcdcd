"""Reading and writing variables inside a training step, with one replica or several."""

from collections.abc import Sequence

import keras
import tensorflow as tf


def native(variable) -> tf.Variable:
    return variable.value if isinstance(variable, keras.Variable) else variable


def read(variables: Sequence) -> list[tf.Tensor]:
    """What the variables hold now; later assignments do not change it."""
    return [tf.identity(native(variable)) for variable in variables]


def assign(variables: Sequence, values: Sequence) -> None:
    """Assigns to each replica's copy the value that this replica computed.

    `variable.assign` would average over the replicas, which costs a transfer, and is refused for an optimizer's own
    variables. The values have to be the same in all replicas already: computed from variables and reduced gradients.
    """
    strategy = tf.distribute.get_strategy()
    variables = [native(variable) for variable in variables]

    def update(distribution, variables, values):
        for variable, value in zip(variables, values, strict=True):
            distribution.extended.update(variable, _assign, args=(value,), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(update, strategy, variables, list(values))


def projected(variables: Sequence, values: Sequence) -> list:
    """The values held to the constraints of the variables.

    A constraint that does more than to project, such as a mask that lets weights decay, says in `project` what holds of
    any values in the place of the weight.
    """
    constraints = [getattr(variable, "constraint", None) for variable in variables]
    return [
        value if constraint is None else getattr(constraint, "project", constraint)(tf.convert_to_tensor(value))
        for constraint, value in zip(constraints, values, strict=True)
    ]


def project(variables: Sequence) -> None:
    """Holds the variables to their constraints, once more."""
    held = [variable for variable in variables if getattr(variable, "constraint", None) is not None]
    if held:
        assign(held, projected(held, read(held)))


def _assign(variable, value):
    variable.assign(tf.cast(value, variable.dtype))
