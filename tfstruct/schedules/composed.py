"""Schedules made of schedules."""

from collections.abc import Iterable

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from tfstruct.arguments import checked, require_count
from tfstruct.errors import ArgumentError
from tfstruct.schedules.arguments import check_rate, check_rising, check_schedule
from tfstruct.schedules.interpolation import as_float, last_begun, line
from tfstruct.schedules.plotting import PlottableSchedule, end, registered


@registered
class Warmup(PlottableSchedule, LearningRateSchedule):
    """Rises on a straight line to where a schedule begins, then follows that schedule from its step 0 on.

    `rate = start + (schedule(0) - start) * step / steps` for step < steps, `schedule(step - steps)` from there on.
    With `start=0.0` the very first step leaves the weights as they are. Goyal et al. 2017, arXiv:1706.02677, 2.2.

    Args:
        schedule: any `LearningRateSchedule`, or a number for a constant rate.
        steps: the length of the rise.
        start: the rate at step 0.

    Raises:
        ArgumentError: an argument out of its range.

    Example:
        >>> decay = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=90)
        >>> schedule = tfstruct.schedules.Warmup(decay, steps=10)
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 55, 100)]
        [0.0, 0.05, 0.1, 0.05, 0.0]
    """

    def __init__(self, schedule, steps, start=0.0, name="Warmup"):
        check_schedule("schedule", schedule, numbers=True)
        require_count("steps", steps)
        check_rate("start", start, zero=True)
        self.schedule = schedule
        self.steps = steps
        self.start = start
        self.name = name

    def __call__(self, step):
        with keras.name_scope(self.name):
            step = as_float(step)
            rising = line(self.start, _at(self.schedule, as_float(0)), step / self.steps)
            return ops.where(step < self.steps, rising, _at(self.schedule, ops.maximum(step - self.steps, 0)))

    def _end(self) -> int | None:
        last = end(self.schedule)
        return None if last is None else self.steps + last

    def get_config(self):
        return {
            "schedule": _config_of(self.schedule),
            "steps": self.steps,
            "start": self.start,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "schedule": _from_config(config["schedule"])})


@checked
@registered
class Sequence(PlottableSchedule, LearningRateSchedule):
    """One schedule after the other: each begins at its step 0 where the one before it ends, the last goes on forever.

    `rate = schedules[i](step - boundaries[i - 1])` for boundaries[i - 1] <= step < boundaries[i].

    Args:
        schedules: any `LearningRateSchedule`, or numbers for constant rates.
        boundaries: the steps at which the second, the third, ... begins: one fewer than schedules, rising.

    Raises:
        ArgumentError: no schedules, or boundaries that leave steps without a schedule or a schedule without steps.

    Example:
        >>> schedule = tfstruct.schedules.Sequence([0.01, tfstruct.schedules.LinearDecay(0.1, 50)], boundaries=[10])
        >>> [round(float(schedule(step)), 4) for step in (0, 9, 10, 35, 60)]
        [0.01, 0.01, 0.1, 0.05, 0.0]
    """

    def __init__(self, schedules, boundaries, name="Sequence"):
        for key, given in (("schedules", schedules), ("boundaries", boundaries)):
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise ArgumentError(f"`{key}` must be a list. Received: {given!r}.")
        schedules, boundaries = list(schedules), list(boundaries)
        if not schedules:
            raise ArgumentError("`schedules` must hold at least one schedule. Received: none.")
        for schedule in schedules:
            check_schedule("schedules", schedule, numbers=True)
        if boundaries:
            check_rising("boundaries", boundaries)
        if len(boundaries) >= len(schedules):
            raise ArgumentError(
                f"`boundaries` must be one fewer than the {len(schedules)} schedules, as the last goes on. Received: "
                f"{boundaries}: from step {boundaries[len(schedules) - 1]} on there is no schedule."
            )
        if len(boundaries) < len(schedules) - 1:
            raise ArgumentError(
                f"`boundaries` must be one fewer than the {len(schedules)} schedules. Received: {boundaries}: schedule "
                f"{len(boundaries) + 2} has no step to begin at."
            )
        self.schedules = schedules
        self.boundaries = boundaries
        self.name = name

    def __call__(self, step):
        with keras.name_scope(self.name):
            step = as_float(step)
            # A schedule that is not on yet is asked for its step 0: before that it may be undefined.
            starts = [0, *self.boundaries]
            rates = [
                _at(schedule, ops.maximum(step - start, 0))
                for schedule, start in zip(self.schedules, starts, strict=True)
            ]
            return last_begun(step, rates, self.boundaries)

    def _end(self) -> int | None:
        last = end(self.schedules[-1])
        return None if last is None else sum(self.boundaries[-1:]) + last

    def get_config(self):
        return {
            "schedules": [_config_of(schedule) for schedule in self.schedules],
            "boundaries": self.boundaries,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "schedules": [_from_config(one) for one in config["schedules"]]})


def _at(schedule, step):
    return as_float(schedule(step) if callable(schedule) else schedule)


def _config_of(schedule):
    return keras.saving.serialize_keras_object(schedule) if callable(schedule) else schedule


def _from_config(config):
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config
