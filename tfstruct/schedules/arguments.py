"""Arguments of schedules, checked."""

import itertools

import keras

from tfstruct.arguments import is_number, require_count, require_number
from tfstruct.errors import ArgumentError


def check_rate(name: str, value, zero: bool = False) -> None:
    require_number(name, value, least=0 if zero else None, above=None if zero else 0)


def check_rising(name: str, steps: list) -> None:
    for step in steps:
        require_count(name, step)
    if not steps or any(a >= b for a, b in itertools.pairwise(steps)):
        raise ArgumentError(f"`{name}` must be steps in rising order. Received: {steps}.")


def check_schedule(name: str, value, numbers: bool = False) -> None:
    if numbers and is_number(value):
        check_rate(name, value, zero=True)
    elif not isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        raise ArgumentError(
            f"`{name}` must be a LearningRateSchedule{' or a number' if numbers else ''}. "
            f"Received: {value!r} of type {type(value).__name__}."
        )
