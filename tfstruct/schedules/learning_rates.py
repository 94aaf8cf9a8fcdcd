"""Learning rates as functions of the step: Keras's own schedules, and decays that it lacks."""

from collections import abc

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule, PolynomialDecay

from tfstruct.arguments import require_count, require_number, require_one_of
from tfstruct.schedules.arguments import check_rate, check_rising
from tfstruct.schedules.interpolation import SHAPES, as_float, line, share, whole_cycles
from tfstruct.schedules.plotting import PlottableSchedule, registered

ExponentialDecay = keras.optimizers.schedules.ExponentialDecay
CosineDecay = keras.optimizers.schedules.CosineDecay
CosineDecayRestarts = keras.optimizers.schedules.CosineDecayRestarts
PiecewiseConstantDecay = keras.optimizers.schedules.PiecewiseConstantDecay
InverseTimeDecay = keras.optimizers.schedules.InverseTimeDecay


@registered
class StepDecay(PlottableSchedule, LearningRateSchedule):
    """Multiplies the learning rate by `factor` every so many steps, or at given steps.

    With `steps` a number, `rate = initial_learning_rate * factor^floor(step / steps)`; with `steps` a sequence,
    `rate = initial_learning_rate * factor^k`, k the number of its entries that are at most `step`. Step s is the first
    with the new rate (in Keras's `PiecewiseConstantDecay` it is the last with the old one).

    Args:
        initial_learning_rate: the rate at step 0.
        steps: an int, or steps in rising order.
        factor: in (0, 1].

    Raises:
        ArgumentError: an argument out of its range.

    Example:
        >>> schedule = tfstruct.schedules.StepDecay(0.1, steps=30, factor=0.5)
        >>> [round(float(schedule(step)), 4) for step in (0, 29, 30, 60)]
        [0.1, 0.1, 0.05, 0.025]
    """

    def __init__(self, initial_learning_rate, steps, factor=0.1, name="StepDecay"):
        check_rate("initial_learning_rate", initial_learning_rate)
        if isinstance(steps, abc.Iterable):
            steps = list(steps)
            check_rising("steps", steps)
        else:
            require_count("steps", steps)
        require_number("factor", factor, above=0, most=1)
        self.initial_learning_rate = initial_learning_rate
        self.steps = steps
        self.factor = factor
        self.name = name

    def __call__(self, step):
        with keras.name_scope(self.name):
            if isinstance(self.steps, list):
                falls = sum(as_float(as_float(step) >= boundary) for boundary in self.steps)
            else:
                falls = as_float(whole_cycles(step, self.steps))
            return self.initial_learning_rate * ops.power(as_float(self.factor), falls)

    def _end(self) -> int | None:
        return self.steps[-1] if isinstance(self.steps, list) else None

    def get_config(self):
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "steps": self.steps,
            "factor": self.factor,
            "name": self.name,
        }


@registered
class LinearDecay(PlottableSchedule, PolynomialDecay):
    """Falls (or rises) on a straight line: Keras's `PolynomialDecay` with power 1, and down to 0.

    `rate = end + (initial - end) * (1 - min(step, decay_steps) / decay_steps)`.

    Args:
        initial_learning_rate: the rate at step 0.
        decay_steps: the step from which on the rate is `end_learning_rate`.
        end_learning_rate: the last rate.

    Raises:
        ArgumentError: an argument out of its range.

    Example:
        >>> schedule = tfstruct.schedules.LinearDecay(0.1, decay_steps=100)
        >>> [round(float(schedule(step)), 4) for step in (0, 50, 100, 200)]
        [0.1, 0.05, 0.0, 0.0]
    """

    def __init__(self, initial_learning_rate, decay_steps, end_learning_rate=0.0, name="LinearDecay"):
        check_rate("initial_learning_rate", initial_learning_rate, zero=True)
        check_rate("end_learning_rate", end_learning_rate, zero=True)
        require_count("decay_steps", decay_steps)
        super().__init__(float(initial_learning_rate), decay_steps, float(end_learning_rate), power=1.0, name=name)

    def get_config(self):
        config = super().get_config()
        return {key: value for key, value in config.items() if key not in ("power", "cycle")}


@registered
class WarmupStableDecay(PlottableSchedule, LearningRateSchedule):
    """Rises, stays, and falls at the end: training can go on from any point of the middle.

    With w = warmup_steps, s = stable_steps, d = decay_steps, p = (step - w - s) / d:
    `start + (learning_rate - start) * step / w` for step < w, `learning_rate` until w + s, and
    `end + (learning_rate - end) * f(p)` until w + s + d, then `end`; f is 1 - p (`"linear"`), 1 - sqrt(p) (`"sqrt"`)
    or (1 + cos(pi p)) / 2 (`"cosine"`). Hu et al. 2024, arXiv:2404.06395, section 4; the form 1 - sqrt(p) is of
    Haegele et al. 2024, arXiv:2405.18392.

    Args:
        learning_rate: of the stable part.
        warmup_steps: at least 0.
        stable_steps: at least 0.
        decay_steps: at least 1.
        start, end: the first and the last rate.
        shape: see above.

    Raises:
        ArgumentError: an argument out of its range.

    Example:
        >>> schedule = tfstruct.schedules.WarmupStableDecay(0.1, warmup_steps=10, stable_steps=80, decay_steps=10)
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 90, 95, 100)]
        [0.0, 0.05, 0.1, 0.1, 0.05, 0.0]
    """

    def __init__(
        self,
        learning_rate,
        warmup_steps,
        stable_steps,
        decay_steps,
        start=0.0,
        end=0.0,
        shape="linear",
        name="WarmupStableDecay",
    ):
        check_rate("learning_rate", learning_rate)
        check_rate("start", start, zero=True)
        check_rate("end", end, zero=True)
        require_count("warmup_steps", warmup_steps, least=0)
        require_count("stable_steps", stable_steps, least=0)
        require_count("decay_steps", decay_steps)
        require_one_of("shape", shape, tuple(SHAPES))
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.stable_steps = stable_steps
        self.decay_steps = decay_steps
        self.start = start
        self.end = end
        self.shape = shape
        self.name = name

    def __call__(self, step):
        with keras.name_scope(self.name):
            step = as_float(step)
            falls_at = self.warmup_steps + self.stable_steps
            rising = line(self.start, self.learning_rate, step / max(self.warmup_steps, 1))
            # Before it begins to fall, the share is 0 and the rate the stable one.
            falling = SHAPES[self.shape](self.learning_rate, self.end, share(step - falls_at, self.decay_steps))
            return ops.where(step < self.warmup_steps, rising, falling)

    def _end(self) -> int:
        return self.warmup_steps + self.stable_steps + self.decay_steps

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "stable_steps": self.stable_steps,
            "decay_steps": self.decay_steps,
            "start": self.start,
            "end": self.end,
            "shape": self.shape,
            "name": self.name,
        }
