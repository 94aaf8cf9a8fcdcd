"""Arguments of schedules, checked."""

import itertools
import math

import keras

from tfstruct.errors import ArgumentError


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_rate(name: str, value, zero: bool = False) -> None:
    if not (is_number(value) and (value >= 0 if zero else value > 0) and value < math.inf):
        raise ArgumentError(
            f"`{name}` must be a {'number of at least 0' if zero else 'positive number'}. Received: {value}."
        )


def check_steps(name: str, value, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ArgumentError(f"`{name}` must be an integer of at least {least}. Received: {value}.")


def check_rising(name: str, steps: list) -> None:
    for step in steps:
        check_steps(name, step)
    if not steps or any(a >= b for a, b in itertools.pairwise(steps)):
        raise ArgumentError(f"`{name}` must be steps in rising order. Received: {steps}.")


def check_one_of(name: str, value, allowed: tuple) -> None:
    if value not in allowed:
        raise ArgumentError(f"`{name}` must be one of {', '.join(map(repr, allowed))}. Received: {value!r}.")


def check_schedule(name: str, value, numbers: bool = False) -> None:
    if numbers and is_number(value):
        check_rate(name, value, zero=True)
    elif not isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        raise ArgumentError(
            f"`{name}` must be a LearningRateSchedule{' or a number' if numbers else ''}. "
            f"Received: {value!r} of type {type(value).__name__}."
        )
