"""How a model is quantized while it trains, as plain data."""

import dataclasses
import fnmatch
import json
from collections.abc import Mapping

PRECISIONS = ("int8", "int4", "int16x8", "float32")
RANGES = ("moving_average", "minmax")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """What the forward pass of training shall be like.

    Attributes:
        precision: `"int8"` (weights and activations); `"int4"` (weights of convolutions and dense layers in 4 bits, of
            depthwise, transposed and other ones in 8, activations in 8); `"int16x8"` (activations in 16 bits,
            symmetric; weights in 8).
        layers: precision by layer, `{pattern: precision}`, as in `Recipe.layers`; `"float32"` leaves a layer alone.
        ranges: how the range of an activation follows its batches. `"moving_average"`: from the first batch,
            low <- low + (1 - momentum) (min - low), the same for high; `"minmax"`: the widest seen.
        momentum: of the moving average.
    """

    precision: str = "int8"
    layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ranges: str = "moving_average"
    momentum: float = 0.99

    def __post_init__(self):
        object.__setattr__(self, "layers", dict(self.layers))
        for precision in (self.precision, *self.layers.values()):
            if precision not in PRECISIONS:
                raise ValueError(f"A precision must be one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
        if self.precision == "float32":
            raise ValueError("A scheme of 'float32' quantizes nothing. Name single layers in `layers`.")
        activations = {_activation_bits(p) for p in (self.precision, *self.layers.values()) if p != "float32"}
        if len(activations) > 1:
            raise ValueError("All quantized layers have activations of one width: int16x8 goes with int16x8 alone.")
        if self.ranges not in RANGES:
            raise ValueError(f"`ranges` must be one of {', '.join(RANGES)}. Received: {self.ranges!r}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: {self.momentum}.")

    @classmethod
    def of(cls, scheme: "Scheme | str") -> "Scheme":
        """A scheme from a precision's name."""
        return scheme if isinstance(scheme, cls) else cls(scheme)

    def precision_of(self, path: str) -> str:
        """The precision of a layer by its path; the last pattern that matches wins."""
        found = self.precision
        for pattern, precision in self.layers.items():
            parts = path.split("/")
            names = [path, parts[-1], *("/".join(parts[: i + 1]) for i in range(len(parts)))]
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                found = precision
        return found

    def weight_bits(self, path: str) -> int | None:
        return {"int8": 8, "int4": 4, "int16x8": 8, "float32": None}[self.precision_of(path)]

    def activation_bits(self, path: str) -> int | None:
        precision = self.precision_of(path)
        return None if precision == "float32" else _activation_bits(precision)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping) -> "Scheme":
        return cls(**data)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Scheme":
        return cls.from_dict(json.loads(text))


def _activation_bits(precision: str) -> int:
    return 16 if precision == "int16x8" else 8
