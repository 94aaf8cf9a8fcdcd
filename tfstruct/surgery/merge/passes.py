"""Edits in passes over a model, until one changes nothing."""

import dataclasses
from collections.abc import Callable, Sequence

import keras

from tfstruct.graph import Graph, rewire, trace
from tfstruct.surgery.edited import Edited, edited


@dataclasses.dataclass(frozen=True)
class Pass:
    """What one pass over a model did; `model` is None where it changed nothing."""

    model: keras.Model | None
    changes: Sequence[tuple[str, str]]
    skipped: Sequence[tuple[str, str]]


def repeated(graph: Graph, once: Callable[[Graph], Pass]) -> Pass:
    """Passes over a model until one changes nothing; no model where the first does not."""
    changes: list[tuple[str, str]] = []
    model = None
    while True:
        made = once(graph)
        changes += made.changes
        if made.model is None:
            return Pass(model, changes, made.skipped)
        model = made.model
        graph = trace(model)


def finished(graph: Graph, made: Pass) -> Edited:
    """What passes did, measured; a copy of the model where they changed nothing."""
    model = made.model or rewire(graph, {}).model
    return edited(graph, model, made.changes, made.skipped, exact=True)
