"""Schedules as pictures."""

import os

import keras
import tensorflow as tf
from keras.optimizers.schedules import CosineDecay, PiecewiseConstantDecay, PolynomialDecay

from tfstruct.arguments import require_count
from tfstruct.errors import ArgumentError
from tfstruct.reporting import draw
from tfstruct.schedules.arguments import check_schedule

registered = keras.saving.register_keras_serializable(package="tfstruct")
_SIZE = 6.0, 3.2  # inches

Path = str | os.PathLike | None


class PlottableSchedule:
    """Gives a learning-rate schedule the method `plot`."""

    def plot(self, path: Path | int = None, ax=None, *, steps: int | None = None):
        """Draws the learning rate over the first steps. Needs matplotlib.

        Args:
            path, ax: see `tfstruct.reporting.Plotted.plot`; a whole number in the place of a path is taken for `steps`.
            steps: how many; by default as many as the schedule takes to its end, where it has one.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ArgumentError: a schedule that goes on forever, and no `steps`.
        """
        path, steps = path_and_steps(path, steps)
        return plot(self, steps, path, ax)

    def _end(self) -> int | None:
        """The step from which on the rate stays as it is; None where it never does."""
        return None


def plot(schedule, steps: int | None = None, path: Path = None, ax=None):
    """Draws the learning rate of any schedule over the first steps. Needs matplotlib.

    Args:
        schedule: any `LearningRateSchedule`, Keras's or ours.
        steps: how many; by default as many as the schedule takes to its end, where it has one.
        path, ax: see `tfstruct.reporting.Plotted.plot`.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ArgumentError: no schedule; one that goes on forever, and no `steps`.

    Example:
        >>> decay = keras.optimizers.schedules.CosineDecay(0.1, 50)
        >>> figure = tfstruct.schedules.plot(decay, path="rates.svg")
    """
    check_schedule("schedule", schedule)
    steps = end(schedule) if steps is None else steps
    if steps is None:
        name = type(schedule).__name__
        raise ArgumentError(f"Expected `steps`, how many to draw, as {name} goes on forever. Received: steps=None.")
    require_count("steps", steps)
    points = sorted({round(i * steps / 500) for i in range(501)})
    # One graph, as each step alone takes a millisecond; one step after the other, as some of Keras's take no vector.
    drawn = tf.function(lambda: tf.map_fn(schedule, tf.constant(points), fn_output_signature=keras.config.floatx()))
    rates = drawn.get_concrete_function()()  # a call of `drawn` itself warns from the fifth plot on: one graph each

    def drawing(axes) -> None:
        axes.plot(points, rates.numpy())
        axes.set(xlabel="step", ylabel="learning rate")
        axes.set_title(getattr(schedule, "name", None) or type(schedule).__name__)
        axes.grid(True)

    return draw(drawing, _SIZE, 1, path, ax)


def end(schedule) -> int | None:
    """The step from which on a schedule, or a constant rate, stays as it is; None where it never does, or may not."""
    if isinstance(schedule, PolynomialDecay):
        return None if schedule.cycle else int(schedule.decay_steps)
    if isinstance(schedule, PlottableSchedule):
        return schedule._end()
    if isinstance(schedule, CosineDecay):
        return int(schedule.decay_steps + (schedule.warmup_steps if schedule.warmup_target is not None else 0))
    if isinstance(schedule, PiecewiseConstantDecay):
        return int(schedule.boundaries[-1]) + 1  # at the boundary it is the old rate
    return None if callable(schedule) else 0


def path_and_steps(path: Path | int, steps: int | None) -> tuple[Path, int | None]:
    """`plot` takes the name of a file first; `plot(3000)` means 3000 steps."""
    return (None, path) if isinstance(path, int) and steps is None else (path, steps)  # type: ignore[return-value]
