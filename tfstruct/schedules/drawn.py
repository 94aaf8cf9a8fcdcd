"""Learning rates as pictures."""

import keras
import tensorflow as tf

from tfstruct.schedules.arguments import check_schedule, check_steps

registered = keras.saving.register_keras_serializable(package="tfstruct")


def plot(schedule, steps: int, path=None):
    """Draws the learning rate over the first `steps` steps. Needs matplotlib.

    Args:
        schedule: any `LearningRateSchedule`, Keras's or ours.
        path: where to write the picture, if at all.

    Returns:
        The `matplotlib.figure.Figure`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_schedule("schedule", schedule)
    check_steps("steps", steps)
    points = sorted({round(i * steps / 500) for i in range(501)})
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    # One graph, as each step alone takes a millisecond; one step after the other, as some of Keras's take no vector.
    rates = tf.function(lambda: tf.map_fn(schedule, tf.constant(points), fn_output_signature=keras.config.floatx()))()
    axis.plot(points, rates.numpy())
    axis.set_xlabel("step")
    axis.set_ylabel("learning rate")
    axis.set_title(getattr(schedule, "name", None) or type(schedule).__name__)
    axis.grid(alpha=0.3)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


class Drawn:
    """Gives a schedule the method `plot`."""

    def plot(self, steps: int, path=None):
        """Draws the learning rate over the first `steps` steps, see `tfstruct.schedules.plot`."""
        return plot(self, steps, path)
