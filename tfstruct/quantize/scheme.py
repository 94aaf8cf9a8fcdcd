"""How a model is quantized while it trains, as plain data."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from tfstruct.arguments import checked, require_number, require_one_of
from tfstruct.errors import ArgumentError, ArgumentTypeError, RecipeError
from tfstruct.patterns import matches
from tfstruct.precisions import OF_TRAINING, PRECISIONS
from tfstruct.untrusted import json_text

PER = ("channel", "layer", "tensor")
STEPS = ("largest", "learned")
RANGES = ("moving_average", "minmax", "percentile", "learned", "pact")


@checked
@dataclasses.dataclass(frozen=True)
class Scheme:
    """What the forward pass of training shall be like.

    Attributes:
        precision: `"int8"` (weights and activations); `"int4"` (weights of convolutions and dense layers in 4 bits, of
            depthwise, transposed and other ones in 8, activations in 8); `"int2"` (weights on -2 s, -s, 0, s),
            `"ternary"` (-s, 0, s) and `"binary"` (-s, s), stored in 4 or 8 bits, activations in 8; `"int16x8"`
            (activations in 16 bits, symmetric; weights in 8); `"float16"` (weights in 16 bits, computed in float32).
        layers: precision by layer, `{pattern: precision}`, as in `Recipe.layers`; `"float32"` leaves a layer alone.
        per: what has a step s of its own: each output `"channel"`; the `"layer"`'s kernel as it is, so that equal
            weights are equal integers; or the kernel as one `"tensor"` with the batch norm behind it folded in.
        steps: of weights. `"largest"`: s follows max|w|; `"learned"`: s learns (LSQ, arXiv:1902.08153).
        ranges: how the range of an activation is found. `"moving_average"`: from the first batch,
            low <- low + (1 - momentum) (min - low), the same for high; `"minmax"`: the widest seen; `"percentile"`: the
            moving average of percentiles; `"learned"`: both ends learn, starting at the first batch's (LSQ+,
            arXiv:2004.09576); `"pact"`: they learn through what they clip (PACT, arXiv:1805.06085).
        momentum: of the moving average.
        percentile: share of the values, in percent, that `"percentile"` keeps on either side.
        learning_rate: of learned steps and ranges: about the share by which one step changes them.
        decay: of PACT, the weight of `decay * end^2` in the loss.

    Example:
        >>> scheme = tfstruct.quantize.Scheme("int8", layers={"hidden": "int4"})
        >>> aware = tfstruct.callbacks.QuantizeAware(scheme)
    """

    report: ClassVar[Any] = None  # of `mixed_precision`; no part of the data

    precision: str = "int8"
    layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    per: str = "channel"
    steps: str = "largest"
    ranges: str = "moving_average"
    momentum: float = 0.99
    percentile: float = 99.99
    learning_rate: float = 1e-3
    decay: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "layers", dict(self.layers))
        every = (self.precision, *self.layers.values())
        for precision in every:
            if precision not in PRECISIONS or not PRECISIONS[precision].trains:
                raise ArgumentError(f"A precision must be one of {', '.join(OF_TRAINING)}. Received: {precision!r}.")
        if self.precision == "float32":
            raise ArgumentError("A scheme of 'float32' quantizes nothing. Name single layers in `layers`.")
        if "float16" in every and set(every) != {"float16"}:
            raise ArgumentError("'float16' is a precision of the whole file. Use it without `layers`.")
        if len({PRECISIONS[p].activation_bits for p in every if p != "float32"}) > 1:
            raise ArgumentError("All quantized layers have activations of one width: int16x8 goes with int16x8 alone.")
        for field, allowed in (("per", PER), ("steps", STEPS), ("ranges", RANGES)):
            require_one_of(field, getattr(self, field), allowed)
        if PRECISIONS[self.precision].activation_bits == 16 and self.ranges in ("learned", "pact"):
            raise ArgumentError(
                f"Ranges of 16 bits do not learn. Use ranges='moving_average'. Received: {self.ranges!r}."
            )
        if self.precision == "float16" and (self.per, self.steps) != ("channel", "largest"):
            raise ArgumentError("'float16' has no steps. Leave `per` and `steps` as they are.")
        numbers = {
            "momentum": require_number("momentum", self.momentum, least=0, below=1),
            "percentile": require_number("percentile", self.percentile, above=50, most=100),
            "learning_rate": require_number("learning_rate", self.learning_rate, above=0, below=1),
            "decay": require_number("decay", self.decay, least=0),
        }
        for name, value in numbers.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, scheme: "Scheme | str") -> "Scheme":
        """A scheme from a precision's name."""
        if not isinstance(scheme, Scheme | str):
            raise ArgumentTypeError(f"Expected a Scheme, or the name of a precision. Received: {scheme!r}.")
        return scheme if isinstance(scheme, Scheme) else cls(scheme)

    def precision_of(self, path: str) -> str:
        """The precision of a layer by its path; the last pattern that matches wins."""
        found = self.precision
        for pattern, precision in self.layers.items():
            if matches(pattern, path):
                found = precision
        return found

    def weight_bits(self, path: str) -> int | None:
        return PRECISIONS[self.precision_of(path)].weight_bits

    def activation_bits(self, path: str) -> int | None:
        return PRECISIONS[self.precision_of(path)].activation_bits

    @staticmethod
    def file_of(precision: str) -> str:
        """The precision of a `Recipe` whose file holds the weights of `precision`."""
        return PRECISIONS[precision].stored_as

    def replace(self, **changes) -> "Scheme":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping) -> "Scheme":
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ArgumentError(f"Unknown scheme fields {unknown}. Expected some of {sorted(known)}.")
        return cls(**data)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Scheme":
        """A scheme from `to_json`.

        Raises:
            RecipeError: no JSON, or not such a scheme.
        """
        return json_text.read(text, cls.from_dict, RecipeError, "A scheme")
