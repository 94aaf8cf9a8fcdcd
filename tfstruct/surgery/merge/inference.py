"""`optimize_inference`: applies every exact edit until none is left."""

from collections.abc import Callable, Sequence

import keras

from tfstruct.arguments import checked
from tfstruct.graph import Graph, open_and_trace, trace
from tfstruct.reporting import Result
from tfstruct.surgery.layers.redundant import remove_once
from tfstruct.surgery.lossless.shrinking import Shrunk, shrunk
from tfstruct.surgery.merge.activations import fuse_once
from tfstruct.surgery.merge.folding import fold_once
from tfstruct.surgery.merge.merging import merge_once
from tfstruct.surgery.merge.parallel import join_once
from tfstruct.surgery.merge.passes import Pass, finished

_Step = Callable[[Graph], Pass]


@checked
def optimize_inference(model: keras.Model, *, open_layers: str | bool = "auto") -> Result:
    """The same function with less to compute: all exact edits in turn, until none is left to do.

    Redundant layers go (`remove_redundant`), batch normalizations are folded (`fold_batch_norm`), parallel branches
    and layers in a row merged (`merge_parallel`, `merge_linear`), channels that are constant or unread removed
    (`shrink`), activation layers fused (`fuse_activation`). Before a conversion:

        to_tflite(optimize_inference(model).model, recipe)

    or `tfstruct-convert --optimize`. For inference: the result has no dropout and no batch statistics to train with.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Result`: all changes in order; `skipped` as the last round left it; the difference to the original measured.

    Raises:
        ModelError: the model's graph cannot be walked (a subclassed model).
        TfstructError: the models differ by more than rounding explains; no model is handed out.

    Example:
        >>> edited = tfstruct.surgery.optimize_inference(convnet)
        >>> len(edited.model.layers) < len(convnet.layers)
        True
        >>> np.allclose(convnet(images, training=False), edited.model(images), atol=1e-4)
        True
    """
    graph = open_and_trace(model, open_layers=open_layers)
    work = _Work(graph)
    work.until_idle([remove_once, fold_once, join_once, merge_once, _shrunk])
    # What is fused gives no other edit anything to do, so it comes last.
    work.run(fuse_once)
    made = finished(graph, Pass(work.changed, work.changes, work.left))
    _ = made.max_difference  # the certificate: measured now, not when somebody asks
    return made


class _Work:
    """The model so far, and what was done to it. `changed` is None as long as nothing was."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self.changed: keras.Model | None = None
        self.changes: list[tuple[str, str]] = []
        self._skipped: dict[_Step, Sequence[tuple[str, str]]] = {}

    @property
    def left(self) -> tuple[tuple[str, str], ...]:
        """What each step skipped in its last run."""
        return tuple(dict.fromkeys(skip for skips in self._skipped.values() for skip in skips))

    def run(self, step: _Step) -> bool:
        """Repeats one step until it changes nothing; returns whether it has changed anything."""
        before = self.changed
        while True:
            made = step(self._graph)
            self._skipped[step] = made.skipped
            self.changes += made.changes
            if made.model is None:
                return self.changed is not before
            self.changed = made.model
            self._graph = trace(made.model)

    def until_idle(self, steps: list[_Step]) -> None:
        """Repeats the steps until none changes the model."""
        idle, at = 0, 0
        while idle < len(steps):
            idle = 1 if self.run(steps[at]) else idle + 1
            at = (at + 1) % len(steps)


def _shrunk(graph: Graph) -> Pass:
    made = shrunk(graph)
    return Pass(made.graph.model if made.changed else None, _changes(made), ())


def _changes(made: Shrunk) -> list[tuple[str, str]]:
    counts = ((layer, len(gone)) for layer, gone in made.removed.items())
    changes = [(layer, f"{n} channel{'s' * (n > 1)} without effect removed") for layer, n in counts]
    changes += [(fold.layer, f"{fold.channels} constants moved into its {fold.into}") for fold in made.folded]
    changes += [(branch.join, f"input {branch.index} cut: {branch.why}") for branch in made.branches]
    named = {layer for layer, _ in changes}
    return changes + [(layer, "gone: nothing needs it") for layer in made.vanished if layer not in named]
