"""Rates as optimizers take them."""

import numbers

from tfstruct.arguments import require_number


def checked_rate(value):
    """A learning rate as Keras takes it: a number that is not negative as a float; a schedule or function as it is."""
    return require_number("learning_rate", value, least=0) if isinstance(value, numbers.Real) else value
