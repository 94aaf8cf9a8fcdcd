"""`Outcome`: what one step of a strategy hands on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

    from tfstruct.quantize.scheme import Scheme
    from tfstruct.quantize.twin import Twin


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a step made.

    Attributes:
        model: the new model; need not be compiled.
        changes: (layer, what was done to it).
        skipped: (layer, why it was left alone).
        details: the report of the function or callback that did it, as plain data.
        history: the logs of training, one dict an epoch.
        twin: of quantization-aware training.
        scheme: how the file is to be quantized, where the step decides that.
    """

    model: "keras.Model"
    changes: Sequence[tuple[str, str]] = ()
    skipped: Sequence[tuple[str, str]] = ()
    details: Mapping = dataclasses.field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    twin: "Twin | None" = None
    scheme: "Scheme | None" = None
