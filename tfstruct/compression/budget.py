"""`Budget`: the limits that a user sets for a compression; `Limits`: the same in absolute figures."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from tfstruct import budgets
from tfstruct.compression.candidate import Candidate
from tfstruct.errors import BudgetError

# Those of the graph are compared with the original's, those of the file with those of its plain int8 file.
OF_THE_GRAPH = ("macs", "params", "peak_memory")
OF_THE_FILE = ("tflite_bytes", "gzip_bytes", "arena_bytes", "latency_us")
FIGURES = (*OF_THE_GRAPH, *OF_THE_FILE)


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits for the result of `compress`: what it may cost, and how much quality it may lose. All are met, or
    `BudgetError` is raised.

        Budget(accuracy_drop=0.005, macs=0.5, tflite_bytes=56_000)
        Budget.of("accuracy_drop=0.5%,macs=50%,tflite_bytes=56000")  # the same

    Up to 1 a figure is the share that may stay, above 1 an absolute value. `macs`, `params` and `peak_memory` are
    shares of the original model; `tflite_bytes`, `gzip_bytes`, `arena_bytes` and `latency_us` of its plain int8 file,
    which post-training quantization makes.

    Attributes:
        accuracy_drop: how much the file may be worse than the original on the validation data, in [0, 1). Of a metric
            for which more is better (accuracy) in its own units: 0.005 is half a point. Of one for which less is better
            (an error) its relative rise.
        macs: multiply-accumulates for one sample.
        params: entries of all weights.
        peak_memory: bytes of live int8 activations at the worst moment.
        tflite_bytes, gzip_bytes: of the file; after gzip -9.
        arena_bytes: what tflite-micro needs for its tensors; needs `pip install 'tfstruct[micro]'`.
        latency_us: microseconds of one inference, one thread.
        latency_table: a file of times by operator measured on a device (see `tfstruct.convert.LatencyTable`), which
            `latency_us` is estimated from. None: measured on this machine, in turns with the plain int8 file.

    Raises:
        BudgetError: a figure that is unknown or out of range.

    Example:
        >>> tfstruct.Budget.of("macs=50%,tflite_bytes=56000") == tfstruct.Budget(macs=0.5, tflite_bytes=56_000)
        True
    """

    accuracy_drop: float | None = None
    macs: float | None = None
    params: float | None = None
    peak_memory: float | None = None
    tflite_bytes: float | None = None
    gzip_bytes: float | None = None
    arena_bytes: float | None = None
    latency_us: float | None = None
    latency_table: str | os.PathLike | None = None

    def __post_init__(self):
        if self.accuracy_drop is not None:
            drop = budgets.number("accuracy_drop", self.accuracy_drop)
            if not 0 <= drop < 1:
                raise BudgetError(
                    "`accuracy_drop` must be in [0, 1): 0.005, or 0.5%, is half a point. Received: "
                    f"{self.accuracy_drop!r}."
                )
            object.__setattr__(self, "accuracy_drop", drop)
        for name, value in self.figures.items():
            object.__setattr__(self, name, budgets.figure(name, value))
        if self.latency_table is not None:
            if self.latency_us is None:
                raise BudgetError("`latency_table` says where `latency_us` is estimated from: give `latency_us` too.")
            object.__setattr__(self, "latency_table", os.fspath(self.latency_table))

    @classmethod
    def of(cls, budget: "Budget | Mapping[str, float] | str") -> "Budget":
        """A budget from a dict, or from a text: `name=value` or `name=percent%`, separated by commas."""
        if isinstance(budget, Budget):
            return budget
        known = [field.name for field in dataclasses.fields(cls)]
        given: dict[str, Any] = budgets.entries(budget, known) if budget else {}
        return cls(**given)

    @property
    def figures(self) -> dict[str, float]:
        """The figures that are limited, as they were given."""
        return {name: getattr(self, name) for name in FIGURES if getattr(self, name) is not None}

    def limits(self, original: Candidate, plain: Candidate) -> "Limits":
        """The same in absolute figures.

        Args:
            original: the model as it was given.
            plain: its int8 file by post-training quantization.
        """
        absolute = {}
        for name, value in self.figures.items():
            base = getattr(original if name in OF_THE_GRAPH else plain, name)
            if value <= 1 and base is None:
                raise BudgetError(f"`{name}` of the original is unknown, so a share of it is no limit. Give a figure.")
            absolute[name] = value if base is None else budgets.absolute(name, value, base)
        return Limits(absolute, self._quality(original), original.metric, original.greater_is_better)

    def _quality(self, original: Candidate) -> float | None:
        if self.accuracy_drop is None:
            return None
        if original.greater_is_better:
            return original.quality - self.accuracy_drop
        return original.quality * (1 + self.accuracy_drop)

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    from_dict = of

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        parts = [] if self.accuracy_drop is None else [f"accuracy_drop={self.accuracy_drop:.4g}"]
        parts += [
            f"{name}={value:.4g}" if value <= 1 else f"{name}={value:,.0f}" for name, value in self.figures.items()
        ]
        return ", ".join(parts) or "as small as it goes"


@dataclasses.dataclass(frozen=True)
class Limits:
    """A budget in absolute figures.

    Attributes:
        figures: name -> upper limit.
        quality: the worst allowed value of the metric; None if the drop is not limited.
        metric: its name.
        greater_is_better: of the metric.
    """

    figures: Mapping[str, float]
    quality: float | None
    metric: str
    greater_is_better: bool = True

    def excess(self, candidate: Candidate) -> float:
        """How far a candidate exceeds the limit that it misses most, as a share of that limit; 0 if it meets all.
        Quality does not count."""
        values = ((getattr(candidate, name), limit) for name, limit in self.figures.items())
        return max([0.0, *(math.inf if value is None else value / limit - 1 for value, limit in values)])

    def prefers(self, one: Candidate, other: Candidate) -> bool:
        """Whether a candidate is nearer to the figures than another; where both are as near, of better quality."""
        excess = self.excess(one), self.excess(other)
        return one.better_than(other) if excess[0] == excess[1] else excess[0] < excess[1]

    def good_enough(self, candidate: Candidate) -> bool:
        """Whether the quality is within the allowed drop."""
        if self.quality is None:
            return True
        worse = self.quality - candidate.quality if self.greater_is_better else candidate.quality - self.quality
        return worse <= 1e-9

    def misses(self, candidate: Candidate) -> tuple[str, ...]:
        """The limits that a candidate misses, in words; empty if it meets all."""
        found = [
            f"{name} {getattr(candidate, name):,.0f} (at most {limit:,.0f})"
            for name, limit in self.figures.items()
            if getattr(candidate, name) is not None and getattr(candidate, name) > limit
        ]
        found += [f"{name} is unknown" for name in self.figures if getattr(candidate, name) is None]
        if not self.good_enough(candidate):
            side = "at least" if self.greater_is_better else "at most"
            found.append(f"{self.metric} {candidate.quality:.4g} ({side} {self.quality:.4g})")
        return tuple(found)

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping) -> "Limits":
        return cls(**data)
