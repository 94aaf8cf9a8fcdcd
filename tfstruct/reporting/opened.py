"""What reports say of custom layers."""

import dataclasses
from collections.abc import Mapping

from tfstruct.reporting.report import Report
from tfstruct.reporting.tables import Sheet, by_reason, named

HOW_TO_OPEN = (
    "A layer that stays closed opens if its `call` computes with Keras layers and keras.ops only, without random "
    "numbers and the same way in training, on known sizes (those that the model leaves open are given by "
    "tfstruct.surgery.open_layers(model, inputs=...)); or tfstruct.graph.rule says how channels pass through it."
)
_NAMED = 8  # paths of opened layers in one line; `opened` has all


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedReport(Report):
    """A report on a model whose custom layers were opened first.

    Attributes:
        opened: paths of the layers that were, and are nested models of known layers.
        opaque: path of a custom layer that stays closed -> why, with the line of its code.
    """

    opened: tuple[str, ...] = ()
    opaque: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def layer_notes(self) -> tuple[str, ...]:
        """Sentences: what was opened, what stays closed and why, and how it would open."""
        notes = [f"opened: {named(self.opened, _NAMED)}"] if self.opened else []
        notes += by_reason("stays closed", self.opaque)
        return (*notes, *((HOW_TO_OPEN,) if self.opaque else ()))

    def _whole_sheet(self) -> Sheet:
        sheet = self.sheet()
        return dataclasses.replace(sheet, notes=[*sheet.notes, *self.layer_notes])
