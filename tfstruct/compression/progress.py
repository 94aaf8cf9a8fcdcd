"""Progress of a long run, as a user's callback gets it."""

import dataclasses
import time
from collections.abc import Callable

from tfstruct.compression.candidate import Candidate
from tfstruct.terminal import Show


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        stage: the current stage.
        done, total: training steps so far and in all, over all stages; `total` is None before it is known.
        seconds_left: estimate from the steps so far; None before there is one.
        best: the figures of the best model so far.
    """

    stage: str
    done: int
    total: int | None
    seconds_left: float | None
    best: Candidate | None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", {_clock(self.seconds_left)} left"
        return f"{self.stage}{left}{'' if self.best is None else f'; {self.best}'}"


def told_by(show: Show) -> Callable[[Progress], None]:
    """A listener that shows a run on a `terminal.display`."""
    return lambda state: show(state.stage, state.done, state.total, str(state).removeprefix(state.stage))


class ProgressReporter:
    """Counts training steps, and calls the user's progress callback.

    Args:
        listener: called with a `Progress`: when a stage begins, and every second of training at most.
    """

    def __init__(self, listener: Callable[[Progress], None] | None = None):
        self._listener = listener
        self._stage, self._done = "", 0
        self._total: int | None = None
        self._best: Candidate | None = None
        self._seconds, self._measured, self._reported = 0.0, 0, 0.0
        self._last: float | None = None

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._stage, self._last = name, None
        self._report()

    def expect(self, steps: int) -> None:
        """Announces `steps` more training steps."""
        self._total = self._done + steps

    def skip(self, steps: int) -> None:
        """Counts `steps` training steps that an earlier call made."""
        self._done += steps

    def step(self) -> None:
        """Counts one training step."""
        now = time.monotonic()
        self._done += 1
        if self._last is not None:  # the first step of a stage compiles
            self._seconds, self._measured = self._seconds + now - self._last, self._measured + 1
        self._last = now
        if now - self._reported > 1:
            self._report()

    def found(self, candidate: Candidate) -> None:
        """Sets the best model so far."""
        self._best = candidate

    def _report(self) -> None:
        self._reported = time.monotonic()
        if self._listener is None:
            return
        left = None
        if self._total is not None and self._measured:
            left = max(self._total - self._done, 0) * self._seconds / self._measured
        self._listener(Progress(self._stage, self._done, self._total, left, self._best))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
