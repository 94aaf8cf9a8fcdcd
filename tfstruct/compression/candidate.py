"""`Candidate`: the figures of one model and its file."""

import dataclasses
import json
import math
from collections.abc import Mapping

from tfstruct.compression.steps.step import Step
from tfstruct.errors import ArgumentTypeError

# What files may hold for a field, by its annotation.
_KINDS: dict[str, tuple[type, ...]] = {
    str(str): (str,),
    str(bool): (bool,),
    str(int): (int,),
    str(float): (int, float),
    str(int | None): (int, type(None)),
    str(float | None): (int, float, type(None)),
}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What one model costs, and how good its file is on the validation data.

    Attributes:
        name: `"original"`, `"plain int8"`, the step it came from, a trial of a search.
        metric: what `quality` is, such as `"accuracy"`.
        quality: of the file, on the validation data.
        greater_is_better: whether more of `metric` is better.
        params: entries of all weights.
        tflite_bytes, gzip_bytes: of the file; after gzip -9.
        macs, peak_memory: multiply-accumulates and bytes of live int8 activations for one sample; None where the model
            leaves sizes open.
        latency_us: microseconds of one inference, one thread; None where it was not measured.
        arena_bytes: of tflite-micro; None where it was not asked for.
        scores: other figures of the file on the validation data: `recall`, `precision`, `top1_agreement`, `sqnr_db`.
        strategy: the steps that made this model from the original.
    """

    name: str
    metric: str
    quality: float
    params: int
    tflite_bytes: int
    gzip_bytes: int
    macs: int | None = None
    peak_memory: int | None = None
    latency_us: float | None = None
    arena_bytes: int | None = None
    greater_is_better: bool = True
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    strategy: tuple[Step, ...] = ()

    def __post_init__(self):
        for name in ("quality", "latency_us"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        finite = {name: float(value) for name, value in dict(self.scores).items() if math.isfinite(value)}
        object.__setattr__(self, "scores", finite)
        object.__setattr__(self, "strategy", tuple(self.strategy))

    def better_than(self, other: "Candidate") -> bool:
        """Whether the quality is better."""
        return self.quality > other.quality if self.greater_is_better else self.quality < other.quality

    def replace(self, **changes) -> "Candidate":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        parts = [f"{self.metric} {self.quality:.4g}", f"{self.tflite_bytes:,} bytes"]
        parts += [] if self.macs is None else [f"{self.macs:,} MACs"]
        parts += [f"{self.params:,} parameters"]
        parts += [] if self.latency_us is None else [f"{self.latency_us:,.0f} µs"]
        return f"{self.name}: {', '.join(parts)}"

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "strategy": [step.to_dict() for step in self.strategy]}

    @classmethod
    def from_dict(cls, data: Mapping) -> "Candidate":
        """The inverse of `to_dict`.

        Raises:
            ArgumentTypeError: figures that are none.
        """
        for field in dataclasses.fields(cls):
            kinds = _KINDS.get(str(field.type))
            value = data.get(field.name, field.default)
            if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
                raise ArgumentTypeError(f"{field.name} is {value!r}")
        return cls(**{**data, "strategy": tuple(Step.from_dict(step) for step in data.get("strategy", ()))})

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)
