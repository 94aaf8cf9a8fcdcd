"""Learning rates that rise and fall."""

import math

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from tfstruct.arguments import checked, require_count, require_number, require_one_of
from tfstruct.errors import ArgumentError
from tfstruct.schedules.arguments import check_rate
from tfstruct.schedules.interpolation import SHAPES, as_float, last_begun, share, whole_cycles
from tfstruct.schedules.plotting import PlottableSchedule, registered


@checked
@registered
class OneCycle(PlottableSchedule, LearningRateSchedule):
    """Rises to `max_learning_rate`, falls back, and ends far below where it began: one cycle for the whole training.

    With low = max_learning_rate / initial_divisor, final = low / final_divisor and r = round(warmup * steps):
    two phases go low -> max in r steps, max -> final in the rest; three phases, those of the paper, go low -> max in
    r steps, max -> low in r more, low -> final in the rest. From `steps` on the rate is `final`. The paper lets the
    momentum run the other way; a schedule of Keras sets the learning rate only, so the momentum stays.
    Smith and Topin 2017, arXiv:1708.07120.

    Args:
        max_learning_rate: what `callbacks.LearningRateFinder` is for.
        steps: of the whole training, epochs times batches.
        warmup: the share of steps that the rise takes, in (0, 1); with three phases below 0.5.
        initial_divisor, final_divisor: at least 1.
        shape: `"cosine"` or `"linear"`, the way between two rates.
        phases: 2 or 3.

    Raises:
        ArgumentError: an argument out of its range, or too few steps for the phases.

    Example:
        >>> schedule = tfstruct.schedules.OneCycle(0.1, steps=100, warmup=0.3)
        >>> [round(float(schedule(step)), 4) for step in (0, 30, 65, 100)]
        [0.004, 0.1, 0.05, 0.0]
        >>> model.compile(keras.optimizers.SGD(schedule), "mse")
    """

    def __init__(
        self,
        max_learning_rate,
        steps,
        warmup: float = 0.3,
        initial_divisor: float = 25.0,
        final_divisor: float = 1e4,
        shape="cosine",
        phases=2,
        name="OneCycle",
    ):
        check_rate("max_learning_rate", max_learning_rate)
        require_count("steps", steps)
        require_one_of("shape", shape, ("cosine", "linear"))
        require_one_of("phases", phases, (2, 3))
        most = 1 if phases == 2 else 0.5
        if not 0 < warmup < most:
            raise ArgumentError(f"`warmup` must be in (0, {most}) with {phases} phases. Received: {warmup}.")
        for key, divisor in (("initial_divisor", initial_divisor), ("final_divisor", final_divisor)):
            if not 1 <= divisor < math.inf:
                raise ArgumentError(f"`{key}` must be at least 1. Received: {divisor}.")
        self.max_learning_rate = max_learning_rate
        self.steps = steps
        self.warmup = warmup
        self.initial_divisor = initial_divisor
        self.final_divisor = final_divisor
        self.shape = shape
        self.phases = phases
        self.name = name
        rise = round(warmup * steps)
        low = max_learning_rate / initial_divisor
        # (first step, last step, rate at the first, rate at the last)
        self._pieces = [(0, rise, low, max_learning_rate)]
        if phases == 3:
            self._pieces.append((rise, 2 * rise, max_learning_rate, low))
        last = self._pieces[-1]
        self._pieces.append((last[1], steps, last[3], low / final_divisor))
        if any(first >= end for first, end, *_ in self._pieces):
            raise ArgumentError(f"`steps` must leave each phase a step. Received: {steps}, with warmup={warmup}.")

    def __call__(self, step):
        with keras.name_scope(self.name):
            step = as_float(step)
            way = SHAPES[self.shape]
            rates = [way(a, b, share(step - first, end - first)) for first, end, a, b in self._pieces]
            return last_begun(step, rates, [first for first, *_ in self._pieces[1:]])

    def _end(self) -> int:
        return self.steps

    def get_config(self):
        return {
            "max_learning_rate": self.max_learning_rate,
            "steps": self.steps,
            "warmup": self.warmup,
            "initial_divisor": self.initial_divisor,
            "final_divisor": self.final_divisor,
            "shape": self.shape,
            "phases": self.phases,
            "name": self.name,
        }


@registered
class Cyclical(PlottableSchedule, LearningRateSchedule):
    """Swings on straight lines between two rates, again and again.

    With c = floor(step / (2 * half_cycle)), the number of whole cycles, and
    t = 1 - |step / half_cycle - 2c - 1|, which runs 0 -> 1 -> 0 in a cycle:
    `rate = low + (high - low) * t * a`, where a = 1 (`"triangular"`), a = 2^-c (`"triangular2"`) or a = gamma^step
    (`"exp_range"`). Smith 2017, arXiv:1506.01186, section 3.

    Args:
        low, high: the two rates; `high` of the first cycle where later ones are lower.
        half_cycle: steps from `low` to `high`; the paper takes 2 to 10 epochs.
        mode: see above.
        gamma: for `"exp_range"`, in (0, 1].

    Raises:
        ArgumentError: an argument out of its range.

    Example:
        >>> schedule = tfstruct.schedules.Cyclical(0.01, 0.1, half_cycle=10, mode="triangular2")
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 20, 30)]
        [0.01, 0.055, 0.1, 0.01, 0.055]
    """

    def __init__(self, low, high, half_cycle, mode="triangular", gamma=0.99994, name="Cyclical"):
        check_rate("low", low, zero=True)
        check_rate("high", high)
        if not low < high:
            raise ArgumentError(f"`low` must be below `high`. Received: {low} and {high}.")
        require_count("half_cycle", half_cycle)
        require_one_of("mode", mode, ("triangular", "triangular2", "exp_range"))
        require_number("gamma", gamma, above=0, most=1)
        self.low = low
        self.high = high
        self.half_cycle = half_cycle
        self.mode = mode
        self.gamma = gamma
        self.name = name

    def __call__(self, step):
        with keras.name_scope(self.name):
            cycle = as_float(whole_cycles(step, 2 * self.half_cycle))
            step = as_float(step)
            within = step - cycle * (2 * self.half_cycle)
            height = 1 - ops.abs(within / self.half_cycle - 1)
            if self.mode == "triangular2":
                height = height * ops.power(as_float(0.5), cycle)
            elif self.mode == "exp_range":
                height = height * ops.power(as_float(self.gamma), step)
            return self.low + (self.high - self.low) * height

    def get_config(self):
        return {
            "low": self.low,
            "high": self.high,
            "half_cycle": self.half_cycle,
            "mode": self.mode,
            "gamma": self.gamma,
            "name": self.name,
        }
