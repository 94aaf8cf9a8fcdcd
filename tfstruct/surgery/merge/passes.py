"""Runs an edit in passes until it changes nothing."""

import dataclasses
from collections.abc import Callable, Sequence

import keras

from tfstruct.graph import Graph, rewire, trace
from tfstruct.reporting import Result
from tfstruct.surgery.edit_report import edited


@dataclasses.dataclass(frozen=True)
class Pass:
    """The result of one pass; `model` is None if it changed nothing."""

    model: keras.Model | None
    changes: Sequence[tuple[str, str]]
    skipped: Sequence[tuple[str, str]]


def repeated(graph: Graph, once: Callable[[Graph], Pass]) -> Pass:
    """Repeats a pass until it changes nothing; `model` is None if the first one does not."""
    changes: list[tuple[str, str]] = []
    model = None
    while True:
        made = once(graph)
        changes += made.changes
        if made.model is None:
            return Pass(model, changes, made.skipped)
        model = made.model
        graph = trace(model)


def finished(graph: Graph, made: Pass) -> Result:
    """The result of all passes; with a copy of the model if they changed nothing."""
    model = made.model or rewire(graph, {}).model
    return edited(graph, model, made.changes, made.skipped, exact=True)
