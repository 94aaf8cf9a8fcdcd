"""Which layers of student and teacher are compared, and how channels of different number are made comparable."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfstruct.errors import ModelError
from tfstruct.graph import Graph, fingerprint, trace
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.patterns import names_layer
from tfstruct.surgery.pruning.plan import Plan, units_of

# Which of the teacher's channels the student has: a plan, or the layers' kept channels.
Kept = Plan | Mapping[str, Sequence[int]]


@dataclasses.dataclass
class Pair:
    """One layer of each model whose values are compared.

    Attributes:
        student, teacher: paths of the layers; None: the models' outputs.
        selected: by axis, the teacher's channels that the student has.
        projection: from the student's channels to the teacher's; None: they are compared as they are.
        how: in words.
    """

    student: str | None
    teacher: str | None
    selected: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    projection: keras.layers.Dense | None = None
    how: str = "as they are"

    def __call__(self, teacher, student):
        """Values of both, made comparable."""
        for axis, channels in self.selected.items():
            teacher = tf.gather(teacher, channels, axis=axis)
        if self.projection is not None:
            student = self.projection(student)
        return teacher, student

    def require_alike(self, teacher, student) -> None:
        """Raises a ModelError where values of different shape would be compared, which TensorFlow might broadcast."""
        flat = [[tuple(x.shape) for x in keras.tree.flatten(values)] for values in (student, teacher)]
        if not all(_fit(own, other) for own, other in zip(*flat, strict=True)):
            raise ModelError(
                f"The student's {self.student or 'outputs'} of shape {flat[0]} cannot be compared with the teacher's "
                f"{self.teacher or 'outputs'} of shape {flat[1]}. Where widths differ, both models need a graph "
                "(functional), and a layer to be named."
            )


def pairs_of(loss, student: keras.Model, teacher: keras.Model) -> list[Pair]:
    """The pairs of layers that a loss asks for, by its `layers`, or as `keras.distillation` names them."""
    layers = getattr(loss, "layers", None)
    if layers is None:
        theirs, own = (getattr(loss, f"{who}_layer_name", None) for who in ("teacher", "student"))
        return [Pair(own, theirs)]
    ours, theirs = list(layer_paths(student)), list(layer_paths(teacher))
    if isinstance(layers, Mapping):
        pairs = dict(layers)
    else:
        patterns = [layers] if isinstance(layers, str) else layers
        pairs = {path: path for pattern in patterns for path in _matching(student, ours, pattern)}
    _matching(student, ours, *pairs)
    if missing := [path for path in pairs.values() if path not in theirs]:
        raise ModelError(
            f"The teacher `{teacher.name}` has no layer {', '.join(missing)}. Give layers={{student's: teacher's}}. "
            f"The teacher's layers: {_some(theirs)}."
        )
    return [Pair(own, other) for own, other in pairs.items()]


def _matching(model: keras.Model, paths: Sequence[str], *patterns: str) -> list[str]:
    found = []
    for pattern in patterns:
        matched = [path for path in paths if names_layer(pattern, path)]
        if not matched:
            raise ModelError(f"No layer of `{model.name}` is called {pattern}. Its layers: {_some(paths)}.")
        found += matched
    return found


def _some(names) -> str:
    names = list(names)
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


class ChannelMatcher:
    """The channels of both models' layers: whose widths differ, and which of the teacher's the student has."""

    def __init__(self, student: keras.Model, teacher: keras.Model, kept: Kept | None):
        self._student, self._teacher = _graph(student), _graph(teacher)
        self._stays = None
        if kept is not None:
            graph = trace(teacher)
            if not isinstance(kept, Plan):
                kept = Plan(
                    fingerprint(teacher), {path: list(map(int, channels)) for path, channels in kept.items()}, {}
                )
            self._stays = graph.units.kept(units_of(graph, kept))

    def match(self, pair: Pair) -> None:
        """Settles how the values of a pair become comparable.

        Raises:
            ModelError: the layers differ in more than their channels, or `kept` is not what the student has.
        """
        ours, theirs = _made(self._student, pair.student), _made(self._teacher, pair.teacher)
        if ours is None or theirs is None:
            return  # no graph to look into, or the outputs: the shapes have to be equal
        own, other = ours.shape[1:], list(theirs.shape[1:])
        if self._stays is not None:
            for axis, labels in enumerate(theirs.axes):
                channels = None if labels is None else np.flatnonzero(self._stays[labels])
                if channels is not None and len(channels) < len(labels):
                    pair.selected[axis], other[axis - 1] = channels, len(channels)
                    pair.how = f"{len(channels)} of the teacher's {len(labels)} channels"
            if pair.selected and not _fit(own, other):
                raise ModelError(
                    f"By `kept` {pair.student} has the shape {tuple(other)}, the student's has {tuple(own)}. Give the "
                    "channels that were kept to get this student from this teacher."
                )
        if _fit(own, other):
            return
        if len(own) != len(other) or not own or not _fit(own[:-1], other[:-1]) or None in (own[-1], other[-1]):
            raise ModelError(
                f"{pair.student} makes values of shape {tuple(own)}, the teacher's {pair.teacher} of {tuple(other)}. "
                "Only the number of channels, the last axis, may differ: compare other layers."
            )
        pair.projection = keras.layers.Dense(
            other[-1], kernel_initializer=keras.initializers.Orthogonal(seed=0), dtype="float32", name="projection"
        )
        pair.projection.build((None, own[-1]))
        pair.how = f"learned map of {own[-1]} channels to {other[-1]}"


def _graph(model: keras.Model) -> Graph | None:
    try:
        return trace(model)
    except ModelError:
        return None


def _made(graph: Graph | None, path: str | None):
    """What the layer's last call makes, as the graph sees it; None where it is not known."""
    if graph is None or path is None:
        return None
    made = [call.outputs for call in graph.calls if call.path == path]
    if made and len(made[-1]) != 1:
        raise ModelError(f"{path} makes {len(made[-1])} values; only layers that make one can be compared.")
    return made[-1][0] if made else None


def _fit(a, b) -> bool:
    return len(a) == len(b) and all(x == y or None in (x, y) for x, y in zip(a, b, strict=True))
