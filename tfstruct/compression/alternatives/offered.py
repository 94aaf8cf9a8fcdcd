"""The parts of a task, as the kinds of steps offer them, and which of their alternatives do not go together."""

from collections.abc import Mapping, Sequence

import keras

from tfstruct.compression.alternatives.alternative import Alternative, Conflict, Part
from tfstruct.compression.steps.quantizing import Quantize
from tfstruct.compression.steps.step import Step, kinds
from tfstruct.compression.task import Task


def parts_of(task: Task) -> tuple[Part, ...]:
    """Everything that can be decided on its own, in the order of the kinds' places."""
    return tuple(part for kind in kinds() for part in kind.parts(task))


def steps_of(picked: Mapping[Part, Alternative]) -> tuple[Step, ...]:
    """A choice as a strategy: the steps of each kind that has something to do, in the order of their places.

    Args:
        picked: parts and what was chosen; those that stay as they are may be left out.
    """
    found: list[Step] = []
    for kind in kinds():
        own = {part: one for part, one in picked.items() if part.kind == kind.kind and part.alternatives[0] != one}
        found += kind.assembled(own) if own else ()
    return tuple(found)


def edited(model: keras.Model, picked: Mapping[Part, Alternative]) -> tuple[keras.Model, dict[str, str]]:
    """A model after the edits of a choice, nothing trained, and the precisions that its file has by layer."""
    precisions: dict[str, str] = {}
    for step in steps_of(picked):
        if isinstance(step, Quantize):
            precisions = dict(step.layers)
        else:
            model = step.edit(model)
    return model, precisions


def conflicts_of(parts: Sequence[Part]) -> tuple[Conflict, ...]:
    """Alternatives that do not go together: where a block is dropped, nothing else can be done to its layers."""
    return tuple(
        Conflict((block.name, 1), (other.name, place), f"{layer} goes with the block")
        for block in parts if block.kind == "drop_blocks"
        for other in parts if other is not block
        for place, one in enumerate(other.alternatives)
        if (layer := _layer_of(one)) in block.layers or layer.rpartition(".")[0] in block.layers
    )  # fmt: skip


def _layer_of(alternative: Alternative) -> str:
    """The layer that it changes, or what of a layer (`attention.heads`); empty where it says none."""
    return str(alternative.settings.get("layer", ""))
