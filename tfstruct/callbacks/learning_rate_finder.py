"""A range test for the learning rate inside `fit`."""

import math
from typing import ClassVar

import keras
import numpy as np

from tfstruct.arguments import checked, require_count, require_number, require_one_of
from tfstruct.callbacks.failed_fit import when_fit_fails
from tfstruct.callbacks.portable import Portable
from tfstruct.callbacks.range_test import RangeTest, read
from tfstruct.errors import ArgumentError, DataError
from tfstruct.graph.keras_model import require_model
from tfstruct.keras_internals.optimizers import schedule_of
from tfstruct.keras_internals.training import forget_steps, loss_trackers, trace_training_again


@checked
class LearningRateFinder(Portable):
    """Raises the learning rate from batch to batch until the loss diverges, and puts everything back.

    Batch i of n is trained with `rate = lowest * (highest / lowest)^(i / (n - 1))`. The test ends after n steps, or
    earlier when the mean loss of the last batches exceeds `divergence` times the first loss, or is not a number; it
    ends `fit` with it. Then all variables of the model (weights, batch-norm statistics, seeds of dropout) and of the
    optimizer (moments, iterations, learning rate, loss scale) are what they were before. Smith 2017,
    arXiv:1506.01186, section 3.3.

    An optimizer whose learning rate is a schedule is given plain numbers for the length of the test, for which the
    training step is traced once more before and after; the schedule, and the iterations it counts by, are as before.

        finder = LearningRateFinder()
        model.fit(x, y, epochs=5, callbacks=[finder])
        print(finder.report)
        model.compile(keras.optimizers.SGD(OneCycle(finder.suggestion, steps)), ...)

    With gradient accumulation each rate is held for as many batches as make an update, with `steps_per_execution` for
    those of one execution; the loss is the mean over them. The rate of a wrapper such as `LossScaleOptimizer` is that
    of its `inner_optimizer`.

    Args:
        lowest, highest: the first and the last learning rate.
        steps: how many rates, evenly spaced on the logarithmic axis.
        smoothing: standard deviation of the Gaussian window under which the losses are read, as a share of `steps`.
        divergence: how many times the loss of the first batches is too much.
        suggest: `"steepest"`, the rate at which the smoothed loss falls fastest, or `"decade"`, a tenth of the rate at
            which it is back above its beginning. Where one does not exist, `suggestion` is the other.

    Attributes:
        report: the `RangeTest`; None before the first test.

    Raises:
        ArgumentError: an argument out of its range; `fit` has fewer batches than the test takes steps.
        DataError: the training step reports no `loss`.

    Example:
        >>> finder = tfstruct.callbacks.LearningRateFinder(lowest=1e-4, highest=10.0, steps=20)
        >>> history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[finder])
        >>> 1e-4 <= finder.report.suggestion <= 10.0
        True
    """

    _blank: ClassVar[dict[str, object]] = {"_optimizer": None, "_rate": None, "_before": [], "_schedule": None}

    def __init__(
        self,
        lowest: float = 1e-7,
        highest: float = 10.0,
        steps: int = 100,
        smoothing: float = 0.02,
        divergence: float = 4.0,
        suggest: str = "steepest",
    ):
        super().__init__()
        require_number("lowest", lowest, above=0)
        require_number("highest", highest, above=0)
        if not lowest < highest:
            raise ArgumentError(f"Expected 0 < `lowest` < `highest`. Received: {lowest} and {highest}.")
        require_count("steps", steps, least=10)
        require_number("smoothing", smoothing, above=0, below=0.5)
        if divergence != math.inf:  # that never stops it
            require_number("divergence", divergence, above=1)
        require_one_of("suggest", suggest, ("steepest", "decade"))
        self.lowest = lowest
        self.highest = highest
        self.steps = steps
        self.smoothing = smoothing
        self.divergence = divergence
        self.suggest = suggest
        self.report: RangeTest | None = None

    @property
    def suggestion(self) -> float | None:
        """The learning rate that the last test suggests; None before it, and where it found none."""
        return None if self.report is None else self.report.suggestion

    def plot(self, path=None, ax=None):
        """Draws loss against learning rate, see `RangeTest.plot`."""
        if self.report is None:
            raise ArgumentError("Expected a test to plot. Run `fit` with this callback first.")
        return self.report.plot(path, ax)

    def set_model(self, model) -> None:
        require_model(model)
        super().set_model(model)

    def on_train_begin(self, logs=None):
        optimizer = self.model.optimizer
        while hasattr(optimizer, "inner_optimizer"):
            optimizer = optimizer.inner_optimizer
        self._optimizer = optimizer
        self._before, self._schedule = [], None
        self._hold = -(-(optimizer.gradient_accumulation_steps or 1) // self.model.steps_per_execution)
        self._check_enough()
        when_fit_fails(self.model, self._put_back)
        with self.model.distribute_strategy.scope():
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            self._before = [(v, keras.ops.convert_to_numpy(v)) for v in self._variables()]
            if not isinstance(optimizer.learning_rate, keras.Variable):
                self._schedule = schedule_of(optimizer)
                rate = keras.Variable(self.lowest, dtype="float32", trainable=False, name="tested_rate")
                optimizer.learning_rate = lambda: keras.ops.convert_to_tensor(rate)
                self._rate = rate
                trace_training_again(self.model)
            else:
                self._rate = optimizer.learning_rate
        self._rates, self._losses, self._held = [], [], []
        self._stopped = None
        self._set(self.lowest)

    def on_train_batch_begin(self, batch, logs=None):
        # Keras logs the mean over the epoch; with the tracker reset it is that of this batch.
        for metric in loss_trackers(self.model):
            metric.reset_state()

    def on_train_batch_end(self, batch, logs=None):
        if self._stopped is not None:
            return
        if "loss" not in (logs or {}):
            raise DataError(f"LearningRateFinder needs `loss` in the logs of a step. Received: {sorted(logs or {})}.")
        self._held.append(float(logs["loss"]))
        if len(self._held) < self._hold and np.isfinite(self._held[-1]):
            return
        self._rates.append(self._current)
        self._losses.append(float(np.mean(self._held)))
        self._held = []
        self._stopped = self._reason()
        if self._stopped is None:
            share = len(self._rates) / (self.steps - 1)
            self._set(self.lowest * (self.highest / self.lowest) ** share)
        else:
            self.model.stop_training = True
            self._restore()

    def on_train_end(self, logs=None):
        # Once more: at the end of `fit` an optimizer with use_ema writes averages into the weights.
        self._put_back()
        if self._rates:
            width = max(self.smoothing * self.steps, 0.5)
            stopped = self._stopped or f"`fit` ended after {len(self._rates)} of {self.steps} steps"
            self.report = read(self._rates, self._losses, width, stopped, self.suggest)

    def _put_back(self):
        self._restore()
        if self._schedule is not None:
            self._optimizer.learning_rate = self._schedule
            forget_steps(self.model)  # they were traced for plain numbers
        self._before, self._schedule = [], None

    def _check_enough(self):
        batches, epochs = self.params.get("steps"), self.params.get("epochs", 1)
        needed = self.steps * self._hold
        if batches is None:
            return
        there = -(-batches // self.model.steps_per_execution)
        if there * epochs < needed:
            raise ArgumentError(
                f"Expected at least {needed} batches for {self.steps} steps. Received: {there} in each of {epochs} "
                f"epochs. Give fit(..., epochs={-(-needed // there)}), or LearningRateFinder(steps=...)."
            )

    def _variables(self):
        # The metrics are the trainer's, and are reset anyway.
        known = {id(v): v for v in [*self.model.variables, *self.model.optimizer.variables]}
        return list(known.values())

    def _restore(self):
        with self.model.distribute_strategy.scope():
            for variable, value in self._before:
                variable.assign(value)

    def _set(self, rate: float):
        self._current = rate
        with self.model.distribute_strategy.scope():
            self._rate.assign(rate)

    def _reason(self) -> str | None:
        window = max(round(2 * self.smoothing * self.steps), 1)
        last = self._losses[-1]
        if not np.isfinite(last):
            return f"the loss was {last} at {self._current:.2g}"
        start = float(np.median(self._losses[:window]))
        if len(self._losses) > window and np.mean(self._losses[-window:]) > start + (self.divergence - 1) * abs(start):
            return f"the loss exceeded {self.divergence:g} times its beginning at {self._current:.2g}"
        if len(self._losses) == self.steps:
            return "the highest rate was reached"
        return None
