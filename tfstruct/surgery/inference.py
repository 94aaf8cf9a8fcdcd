"""`optimize_inference`: every edit that leaves the function as it is, until none is left."""

import importlib
from collections.abc import Callable

import keras

from tfstruct.graph import rewire, trace
from tfstruct.surgery.activations import fuse_once
from tfstruct.surgery.edited import Edited, edited
from tfstruct.surgery.folding import fold_once
from tfstruct.surgery.merging import merge_once
from tfstruct.surgery.parallel import join_once
from tfstruct.surgery.shrinking import Shrunk, shrink
from tfstruct.surgery.wiring import Pass, repeated

_Step = Callable[[keras.Model], Pass]


def optimize_inference(model: keras.Model) -> Edited:
    """The same function with less to compute: all exact edits in turn, until none is left to do.

    Redundant layers go (`remove_redundant`), batch normalizations are folded (`fold_batch_norm`), parallel branches
    and layers in a row merged (`merge_parallel`, `merge_linear`), channels that are constant or unread removed
    (`shrink`), activation layers fused (`fuse_activation`). Before a conversion:

        to_tflite(optimize_inference(model).model, recipe)

    or `tfstruct-convert --optimize`. For inference: the result has no dropout and no batch statistics to train with.

    Args:
        model: a Sequential or functional model, also nested; not changed.

    Returns:
        `Edited`: all changes in order; `skipped` as the last round left it; the difference to the original measured.

    Raises:
        ModelError: the model's graph cannot be walked (a subclassed model).
        TfstructError: the models differ by more than rounding explains; no model is handed out.
    """
    graph = trace(model)
    steps = _steps()
    changes: list[tuple[str, str]] = []
    skipped: dict[int, list[tuple[str, str]]] = {}
    current, idle, at = model, 0, 0
    while idle < len(steps):
        made = steps[at](current)
        skipped[at] = list(made.skipped)
        changes += made.changes
        if made.changes:
            # One edit can make room for another, so all have another look.
            current, idle = made.model, 0
        idle += 1
        at = (at + 1) % len(steps)
    left = dict.fromkeys(skip for at in sorted(skipped) for skip in skipped[at])
    if current is model:
        current = rewire(graph, {}).model
    return edited(graph, current, changes, tuple(left), exact=True)


def _steps() -> list[_Step]:
    steps = [_repeated(once) for once in (fold_once, join_once, merge_once)]
    redundant = _remove_redundant()
    return [*([redundant] if redundant else []), *steps, _shrunk, _repeated(fuse_once)]


def _repeated(once) -> _Step:
    return lambda model: repeated(trace(model), once)


def _remove_redundant() -> _Step | None:
    function = getattr(importlib.import_module("tfstruct.surgery"), "remove_redundant", None)
    if function is None:
        return None

    def step(model: keras.Model) -> Pass:
        made = function(model)
        return Pass(made.model, made.changes, made.skipped)

    return step


def _shrunk(model: keras.Model) -> Pass:
    made = shrink(model)
    return Pass(made.model, _changes(made), ())


def _changes(made: Shrunk) -> list[tuple[str, str]]:
    counts = ((layer, len(gone)) for layer, gone in made.removed.items())
    changes = [(layer, f"{n} channel{'s' * (n > 1)} without effect removed") for layer, n in counts]
    changes += [(fold.layer, f"{fold.channels} constants moved into its {fold.into}") for fold in made.folded]
    changes += [(branch.join, f"input {branch.index} cut: {branch.why}") for branch in made.branches]
    named = {layer for layer, _ in changes}
    return changes + [(layer, "gone: nothing needs it") for layer in made.vanished if layer not in named]
