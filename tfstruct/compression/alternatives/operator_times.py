"""What operators take at widths that no file has yet: measured once per machine and kept, or by a device's table."""

import abc
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfstruct.convert.draft import zeros
from tfstruct.convert.kernel_operator import KernelOperator
from tfstruct.convert.latency import LatencyTable, Shapes
from tfstruct.convert.runtime import latency, processor
from tfstruct.errors import DataError
from tfstruct.files import write_atomic
from tfstruct.untrusted import json_text

_SCHEMA = "tfstruct-operator-times-1"  # microseconds of the processor, see `time_file`
_POINTS = 4  # along each axis of a grid that are measured
_BURSTS, _SECONDS = 2, 0.01  # the least median counts: what else the machine does makes times longer, never shorter
_LEAST_TIME = 1e-3  # microseconds: a clock may not have moved
_MOST = 50_000  # times that are kept, the newest
_SAVED_EVERY = 5.0  # seconds
_LEAST = KernelOperator("FULLY_CONNECTED", (1, 1), (1, 1), (1, 1))  # nearly all that takes is being called

Timer = Callable[[bytes], float]


def time_file(content: bytes) -> float:
    """Microseconds that the processor spends on one run of a file on zeros, in one thread: time in which other programs
    run does not count."""
    inputs = zeros(content)
    return min(latency(content, inputs, 1, _SECONDS, time.thread_time_ns).median_us for _ in range(_BURSTS))


class Times(abc.ABC):
    """Microseconds of operators at any width.

    Attributes:
        place: where they were measured.
        lacks: names of the operators that `knows` was asked for in vain.
    """

    place: str
    lacks: tuple[str, ...] = ()

    @property
    @abc.abstractmethod
    def overhead(self) -> float:
        """Microseconds of calling an operator alone, which is part of every time."""

    @abc.abstractmethod
    def of(self, operator: KernelOperator) -> float:
        """Microseconds of an operator with a kernel.

        Raises:
            DataError: nothing is known of one of that name.
        """

    @abc.abstractmethod
    def of_other(self, content: bytes | None, name: str = "", dtype: str = "", shapes: Shapes = ()) -> float | None:
        """Microseconds of another operator; None where nothing is known of one of that name.

        Args:
            content: a file of it alone; None of one that does not stand alone.
            name, dtype, shapes: as in `LatencyTable.time`.
        """

    @abc.abstractmethod
    def save(self) -> None:
        """Keeps what was measured, if anything is."""

    def knows(self, operator: KernelOperator) -> bool:
        """Whether `of` has an answer."""
        return True

    def of_file(self, content: bytes, layers: Mapping[str, tuple[str, ...]]) -> float:
        """Microseconds of all operators of a file, as far as they are known without measuring."""
        return 0.0

    def grid(
        self,
        operator: KernelOperator,
        inputs: Sequence[int],
        outputs: Sequence[int],
        positions: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """Microseconds at all pairs of widths."""
        sized = [[operator.resized(inputs=i, outputs=o, positions=positions) for o in outputs] for i in inputs]
        return np.array([[self.of(one) for one in row] for row in sized])


class OperatorTimes(Times):
    """Times of operators on this machine. What was measured once is read from a folder the next time.

    Args:
        folder: where times are kept; by default `tfstruct/operator-times` in `$XDG_CACHE_HOME`, which is `~/.cache`
            where it is not set. A file there that is no such table is made anew; a folder that cannot be written
            costs only the keeping.
        timer: the content of a file -> microseconds.
        place: the processor, and what else times depend on.

    Attributes:
        measured: how many were measured, not read.

    Example:
        >>> from tfstruct.compression.alternatives.operator_times import OperatorTimes
        >>> from tfstruct.convert.kernel_operator import KernelOperator
        >>> times = OperatorTimes("times", timer=lambda content: 5.0)
        >>> times.of(KernelOperator("FULLY_CONNECTED", (1, 32), (10, 32), (1, 10)))
        5.0
    """

    def __init__(self, folder: str | os.PathLike | None = None, timer: Timer = time_file, place: str | None = None):
        runtime = importlib.metadata.version("ai-edge-litert")
        self.place = place or f"{processor()}, ai-edge-litert {runtime}"
        name = hashlib.sha256(self.place.encode()).hexdigest()[:16]
        self.path = (default_folder() if folder is None else pathlib.Path(folder)) / f"{name}.json"
        self._timer, self._times = timer, self._read()
        self._saved, self._new = time.monotonic(), False
        self.measured = 0

    def of(self, operator: KernelOperator) -> float:
        return self._of(operator.key, operator.file)

    def of_other(self, content: bytes | None, name: str = "", dtype: str = "", shapes: Shapes = ()) -> float | None:
        """By what the file holds; 0 where there is none."""
        if content is None:
            return 0.0
        return self._of(f"{name} {hashlib.sha256(content).hexdigest()[:32]}", lambda: content)

    @property
    def overhead(self) -> float:
        return self.of(_LEAST)

    def grid(self, operator, inputs, outputs, positions=None) -> np.ndarray:
        """At most four of each width are measured, the least and the largest among them; the others lie between,
        linearly in both."""
        ins, outs = _some(inputs), _some(outputs)
        rows = [np.interp(outputs, outs, row) for row in super().grid(operator, ins, outs, positions)]
        return np.stack([np.interp(inputs, ins, column) for column in np.transpose(rows)], axis=1)

    def _of(self, key: str, content: Callable[[], bytes]) -> float:
        if key not in self._times:
            self._times[key] = max(float(self._timer(content())), _LEAST_TIME)
            self.measured += 1
            self._new = True
            if time.monotonic() - self._saved > _SAVED_EVERY:
                self.save()
        return self._times[key]

    def save(self) -> None:
        """Keeps what was measured, beside what others have written since."""
        self._saved = time.monotonic()
        if not self._new:
            return
        every = {**self._read(), **self._times}
        kept = dict(itertools.islice(every.items(), max(len(every) - _MOST, 0), None))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, json.dumps({"schema": _SCHEMA, "place": self.place, "times": kept}).encode())
            self._new = False
        except OSError:
            pass  # nothing is lost but time

    def _read(self) -> dict[str, float]:
        """What is kept; nothing where that cannot be read."""
        try:
            return json_text.read(self.path.read_bytes(), self._checked, DataError, "A table of times")
        except (OSError, DataError):
            return {}

    def _checked(self, data: Mapping) -> dict[str, float]:
        if data["schema"] != _SCHEMA or data["place"] != self.place:
            raise DataError("It is of another schema or machine.")
        times = {str(key): float(value) for key, value in data["times"].items()}
        if not all(math.isfinite(value) and value > 0 for value in times.values()):
            raise DataError("A time must be above 0.")
        return times


class TableTimes(Times):
    """The same by a table that was measured on a device, as `LatencyTable.estimate` reads it.

    Args:
        table: the table.
    """

    def __init__(self, table: LatencyTable):
        self.table = table
        self.place = "; ".join(table.processors)

    @property
    def overhead(self) -> float:
        return 0.0

    def of(self, operator: KernelOperator) -> float:
        found = self._known(operator)
        if found is None:
            raise lacking(operator.name)
        return found

    def of_other(self, content: bytes | None, name: str = "", dtype: str = "", shapes: Shapes = ()) -> float | None:
        return self.table.time(name, dtype, shapes)[0]

    def knows(self, operator: KernelOperator) -> bool:
        known = self._known(operator) is not None
        if not known and operator.name not in self.lacks:
            self.lacks = (*self.lacks, operator.name)
        return known

    def _known(self, operator: KernelOperator) -> float | None:
        return self.of_other(None, operator.name, operator.dtype, operator.shapes)

    def of_file(self, content: bytes, layers: Mapping[str, tuple[str, ...]]) -> float:
        return self.table.estimate(content, layers).microseconds

    def save(self) -> None:
        """Nothing is kept."""


def lacking(name: str) -> DataError:
    """The error about an operator that a table has no time of."""
    return DataError(f"The latency table lacks {name}. Measure it on the device too.")


def default_folder() -> pathlib.Path:
    """Where times are kept if nobody says where."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is to be ignored, as the specification of base directories says.
    base = pathlib.Path(home) if os.path.isabs(home) else pathlib.Path.home() / ".cache"
    return base / "tfstruct" / "operator-times"


def _some(widths: Sequence[int]) -> list[int]:
    """The widths of a grid that are measured, in order."""
    every = sorted(set(widths))
    places = np.linspace(0, len(every) - 1, min(len(every), _POINTS)).round().astype(int)
    return [every[i] for i in places]
