"""How much is pruned when: from the training step to a ratio in [0, 1)."""

import math
import os
from collections.abc import Mapping

import keras
import numpy as np

from tfstruct.arguments import checked, require_count, require_number
from tfstruct.errors import ArgumentError
from tfstruct.reporting import draw
from tfstruct.schedules.plotting import path_and_steps


class RatioSchedule:
    """A ratio as a function of the training step: `schedule(step) -> float`.

    Attributes:
        begin: the first step at which something is pruned.
        end: the step from which on the ratio stays at its last value, `final`.
        final: the last value.

    Example:
        >>> schedule = tfstruct.schedules.PolynomialRatio(0.0, 0.8, begin=0, end=100)
        >>> isinstance(schedule, tfstruct.schedules.RatioSchedule), schedule(0), schedule(100)
        (True, 0.0, 0.8)
    """

    begin: int = 0
    end: int = 0
    final: float = 0.0

    def __call__(self, step: int) -> float:
        raise NotImplementedError

    def observe(self, logs: dict, step: int) -> None:
        """Hears the figures of a validation. Only schedules that depend on them do something with it."""

    def state(self) -> dict[str, float]:
        """What has to be kept for training to go on where it was interrupted."""
        return {}

    def restore(self, state: Mapping[str, float | np.ndarray]) -> None:
        """Takes up what `state` gave."""

    def get_config(self) -> dict:
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict) -> "RatioSchedule":
        return cls(**config)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({settings})"

    def plot(self, path: str | os.PathLike | int | None = None, ax=None, *, steps: int | None = None):
        """Draws the ratio over the steps. Needs matplotlib.

        Args:
            path, ax: see `tfstruct.reporting.Plotted.plot`; a whole number in the place of a path is taken for `steps`.
            steps: how many; by default some more than to `end`.

        Returns:
            The `matplotlib.figure.Figure`.
        """
        path, steps = path_and_steps(path, steps)
        steps = max(1, round(1.1 * self.end)) if steps is None else steps
        require_count("steps", steps)

        def drawing(axes) -> None:
            at = [round(i * steps / 400) for i in range(401)]
            axes.step(at, [self(step) for step in at], where="post")
            axes.set(xlabel="step", ylabel="ratio", ylim=(0, 1), title=type(self).__name__)
            axes.grid(True)

        return draw(drawing, (6.0, 3.0), 1, path, ax)


def _ratio(name: str, value: float) -> float:
    return require_number(name, value, least=0, below=1)


def _span(begin: int, end: int) -> tuple[int, int]:
    require_count("begin", begin, least=0)
    require_count("end", end, least=0)
    if end <= begin:
        raise ArgumentError(
            f"The schedule ends before it begins: `end` must be after `begin`. Received: {begin}, {end}."
        )
    return int(begin), int(end)


def _rising(initial: float, final: float) -> tuple[float, float]:
    initial, final = _ratio("initial", initial), _ratio("final", final)
    if final < initial:
        raise ArgumentError(f"`final` must be at least `initial`. Received: {initial}, {final}.")
    return initial, final


@checked
@keras.saving.register_keras_serializable(package="tfstruct")
class ConstantRatio(RatioSchedule):
    """`ratio` from step `begin` on; `end` says how long masks may still change, where weights grow back.

    Args:
        ratio: the share that is pruned, in [0, 1).
        begin: the first step at which it is.
        end: the last step at which masks may change; None: `begin`.

    Raises:
        ArgumentError: an argument out of its range.

    Example:
        >>> schedule = tfstruct.schedules.ConstantRatio(0.5, begin=100)
        >>> schedule(99), schedule(100)
        (0.0, 0.5)
    """

    def __init__(self, ratio: float, begin: int = 0, end: int | None = None):
        self.final = _ratio("ratio", ratio)
        self.begin, self.end = (int(begin), int(begin)) if end is None else _span(begin, end)
        self._given_end = end
        require_count("begin", begin, least=0)

    def __call__(self, step: int) -> float:
        return self.final if step >= self.begin else 0.0

    def get_config(self) -> dict:
        return {"ratio": self.final, "begin": self.begin, "end": self._given_end}


@keras.saving.register_keras_serializable(package="tfstruct")
class OneShot(RatioSchedule):
    """Nothing before step `at`, then `ratio` at once.

    Args:
        ratio: the share that is pruned, in [0, 1).
        at: the step at which it is.

    Raises:
        ArgumentError: an argument out of its range.

    Example:
        >>> schedule = tfstruct.schedules.OneShot(0.8, at=10)
        >>> [schedule(step) for step in (0, 9, 10, 11)]
        [0.0, 0.0, 0.8, 0.8]
    """

    def __init__(self, ratio: float, at: int = 0):
        self.final = _ratio("ratio", ratio)
        require_count("at", at, least=0)
        self.begin = self.end = int(at)

    def __call__(self, step: int) -> float:
        return self.final if step >= self.begin else 0.0

    def get_config(self) -> dict:
        return {"ratio": self.final, "at": self.begin}


@keras.saving.register_keras_serializable(package="tfstruct")
class PolynomialRatio(RatioSchedule):
    """s = final + (initial - final) * (1 - p)^power, p = (step - begin) / (end - begin) in [0, 1].

    The cubic one prunes fast while much is redundant and slowly at the end (Eq. 1, arXiv:1710.01878).

    Args:
        initial, final: the ratios at `begin` and from `end` on, in [0, 1).
        begin, end: steps; before `begin` nothing is pruned.
        power: above 0.

    Raises:
        ArgumentError: an argument out of its range.

    Example:
        >>> schedule = tfstruct.schedules.PolynomialRatio(0.0, 0.8, begin=0, end=100)
        >>> [round(schedule(step), 3) for step in (0, 50, 100, 200)]
        [0.0, 0.7, 0.8, 0.8]
    """

    def __init__(self, initial: float, final: float, begin: int, end: int, power: float = 3.0):
        self.initial, self.final = _rising(initial, final)
        self.begin, self.end = _span(begin, end)
        require_number("power", power, above=0)
        self.power = float(power)

    def __call__(self, step: int) -> float:
        if step < self.begin:
            return 0.0
        p = min((step - self.begin) / (self.end - self.begin), 1.0)
        return self.final + (self.initial - self.final) * (1 - p) ** self.power

    def get_config(self) -> dict:
        return {
            "initial": self.initial, "final": self.final, "begin": self.begin, "end": self.end, "power": self.power,
        }  # fmt: skip


@keras.saving.register_keras_serializable(package="tfstruct")
class CosineRatio(RatioSchedule):
    """s = final + (initial - final) * (1 + cos(pi p)) / 2, p = (step - begin) / (end - begin) in [0, 1].

    Args:
        initial, final: the ratios at `begin` and from `end` on, in [0, 1).
        begin, end: steps; before `begin` nothing is pruned.

    Raises:
        ArgumentError: an argument out of its range.

    Example:
        >>> schedule = tfstruct.schedules.CosineRatio(0.2, 0.8, begin=10, end=20)
        >>> [round(schedule(step), 3) for step in (0, 10, 15, 20)]
        [0.0, 0.2, 0.5, 0.8]
    """

    def __init__(self, initial: float, final: float, begin: int, end: int):
        self.initial, self.final = _rising(initial, final)
        self.begin, self.end = _span(begin, end)

    def __call__(self, step: int) -> float:
        if step < self.begin:
            return 0.0
        p = min((step - self.begin) / (self.end - self.begin), 1.0)
        return self.final + (self.initial - self.final) * (1 + math.cos(math.pi * p)) / 2

    def get_config(self) -> dict:
        return {"initial": self.initial, "final": self.final, "begin": self.begin, "end": self.end}


@checked
@keras.saving.register_keras_serializable(package="tfstruct")
class Iterative(RatioSchedule):
    """Prune, recover for `recover` steps, repeat: each of `rounds` takes the same share of what is left.

    After round i of n, at step begin + (i - 1) * recover: s = 1 - (1 - final)^(i / n) (arXiv:1803.03635, section 2).

    Args:
        final: the ratio after the last round, in [0, 1).
        rounds: how many there are.
        recover: steps from one round to the next.
        begin: the step of the first.

    Raises:
        ArgumentError: an argument out of its range.

    Example:
        >>> schedule = tfstruct.schedules.Iterative(final=0.75, rounds=2, recover=100)
        >>> schedule(0), schedule(99), schedule(100)  # of what is left half goes, twice
        (0.5, 0.5, 0.75)
    """

    def __init__(self, final: float, rounds: int, recover: int, begin: int = 0):
        self.final = _ratio("final", final)
        for name, value in (("rounds", rounds), ("recover", recover)):
            require_count(name, value)
        require_count("begin", begin, least=0)
        self.rounds, self.recover, self.begin = int(rounds), int(recover), int(begin)
        self.end = self.begin + (self.rounds - 1) * self.recover

    def __call__(self, step: int) -> float:
        if step < self.begin:
            return 0.0
        done = min((step - self.begin) // self.recover + 1, self.rounds)
        return self.final if done == self.rounds else 1 - (1 - self.final) ** (done / self.rounds)

    def get_config(self) -> dict:
        return {"final": self.final, "rounds": self.rounds, "recover": self.recover, "begin": self.begin}


@checked
@keras.saving.register_keras_serializable(package="tfstruct")
class AutomaticRatio(RatioSchedule):
    """Rises to `final` as s = final * (1 - (1 - p)^3), and slows while the validation loss is high.

    p grows by speed / (end - begin) a step. After each validation: with a loss above (1 + tolerance) times the best so
    far the speed is halved, down to `slowest`; else it is doubled, up to 1. So pruning is complete at `end` if the
    model keeps up, and later if it does not. Validation is what `fit` does with `validation_data`; in a loop of one's
    own, `compressor.observe({"loss": ...})`.

    Args:
        final: the ratio that is reached, in [0, 1).
        begin: the first step at which something is pruned.
        end: the step at which it is reached without any slowing.
        tolerance: by which share of itself the loss may be above the best so far.
        slowest: the least speed, in (0, 1].

    Raises:
        ArgumentError: an argument out of its range.

    Example:
        >>> schedule = tfstruct.schedules.AutomaticRatio(0.8, begin=0, end=100)
        >>> schedule.observe({"loss": 1.0}, step=10)
        >>> schedule.end
        100
        >>> schedule.observe({"loss": 2.0}, step=20)  # worse: half the speed from here on
        >>> schedule.end
        180
    """

    def __init__(self, final: float, begin: int, end: int, tolerance: float = 0.05, slowest: float = 1 / 16):
        self.final = _ratio("final", final)
        self.begin, self._fastest_end = _span(begin, end)
        require_number("tolerance", tolerance, least=0)
        require_number("slowest", slowest, above=0, most=1)
        self.tolerance, self.slowest = float(tolerance), float(slowest)
        self._speed, self._from, self._done, self._best = 1.0, self.begin, 0.0, math.inf
        self.end = self._complete_at()

    def _progress(self, step: int) -> float:
        steps = max(step - self._from, 0)
        return min(self._done + self._speed * steps / (self._fastest_end - self.begin), 1.0)

    def _complete_at(self) -> int:
        """The step at which pruning is complete at the present speed."""
        return self._from + math.ceil((1 - self._done) * (self._fastest_end - self.begin) / self._speed)

    def __call__(self, step: int) -> float:
        return self.final * (1 - (1 - self._progress(step)) ** 3) if step >= self.begin else 0.0

    def observe(self, logs: dict, step: int) -> None:
        loss = float(logs["loss"])
        self._done, self._from = self._progress(step), max(step, self.begin)
        high = not loss <= self._best * (1 + self.tolerance)  # not a number is high too
        self._speed = max(self._speed / 2, self.slowest) if high else min(2 * self._speed, 1.0)
        self._best = min(self._best, loss)
        self.end = self._complete_at()

    def state(self) -> dict[str, float]:
        return {"speed": self._speed, "from": self._from, "done": self._done, "best": self._best}

    def restore(self, state: Mapping[str, float | np.ndarray]) -> None:
        self._speed, self._done, self._best = (float(state[name]) for name in ("speed", "done", "best"))
        self._from = int(state["from"])
        self.end = self._complete_at()

    def get_config(self) -> dict:
        return {
            "final": self.final, "begin": self.begin, "end": self._fastest_end,
            "tolerance": self.tolerance, "slowest": self.slowest,
        }  # fmt: skip
