"""`Outlook`: what a step sees before it proposes what it would do."""

import dataclasses
from collections.abc import Callable

import keras

from tfstruct.compression.sizing import Sizing
from tfstruct.compression.task import Task


@dataclasses.dataclass(frozen=True)
class Outlook:
    """The task, and how the model can meet the budget at this point of the strategy.

    Attributes:
        task: what has to be done.
        sizing: what channels and bits can do for the model, after the edits that were decided on up to now.
        sizes: the same of another model, such as one after an edit.
    """

    task: Task
    sizing: Sizing
    sizes: Callable[[keras.Model], Sizing]

    @property
    def wanted(self) -> set[str]:
        """The figures that still have to shrink."""
        return {*self.sizing.wanted, *({"tflite_bytes"} if self.sizing.bits.four_bits else ())}
