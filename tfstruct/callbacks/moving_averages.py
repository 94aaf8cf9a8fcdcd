"""Moving averages of weights in optimizers: what the weights are held to holds of them too."""

from collections.abc import Iterator

import keras

from tfstruct.callbacks.constraints import Attached
from tfstruct.keras_internals.optimizers import averages_of, trained_by


def settle(model: keras.Model) -> None:
    """Gives each average the zeros and the shared values of its weight, as they are now.

    Keras averages before it applies constraints, and over steps before there were any.
    """
    for variable, average in _averages(getattr(model, "optimizer", None)):
        if isinstance(variable.constraint, Attached):
            average.assign(variable.constraint.settled(average.value))


def _averages(optimizer) -> Iterator[tuple]:
    """(weight, its average), also of optimizers inside of others."""
    for inner in (getattr(optimizer, "inner_optimizer", None), *(getattr(optimizer, "optimizers", None) or ())):
        if inner is not None:
            yield from _averages(inner)
    averages = averages_of(optimizer)
    if averages:
        pairs = zip(trained_by(optimizer), averages, strict=True)
        yield from ((variable, average) for variable, average in pairs if average is not None)
