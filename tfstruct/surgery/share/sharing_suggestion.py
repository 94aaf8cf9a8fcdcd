"""`suggest_sharing`: finds layers that are similar enough to be shared."""

import dataclasses
import itertools

import keras
import numpy as np

from tfstruct.analyze.inference import batches_for, in_inference
from tfstruct.arguments import checked_but
from tfstruct.errors import PlanError
from tfstruct.graph import Graph, trace
from tfstruct.graph.trace import Body
from tfstruct.keras_internals.graph_nodes import inputs_and_masks
from tfstruct.reporting import Report, Sheet
from tfstruct.reporting.tables import counted
from tfstruct.samples import Samples
from tfstruct.samples.for_model import samples_of
from tfstruct.surgery.share.shareable import PlacedLayer, placed_layers, unlike

_ROWS = 2048  # of samples and positions that CKA looks at


@dataclasses.dataclass(frozen=True)
class SharingSuggestion(Report):
    """Groups for `share_layers`.

    Attributes:
        groups: lists of names, in order of execution; any two members are alike by `threshold` or more.
        similarities: of each group, that of its two least similar members.
        saved: parameters that sharing each group saves.
        pairs: (layer, layer, similarity) of all that could be shared.
        measure: `"weights"` or `"inputs"`.
    """

    groups: tuple[tuple[str, ...], ...]
    similarities: tuple[float, ...]
    saved: tuple[int, ...]
    pairs: tuple[tuple[str, str, float], ...]
    measure: str
    threshold: float

    def _title(self) -> str:
        if self.groups:
            return f"{counted(len(self.groups), 'group')} alike by {self.threshold:g} in their {self.measure}:"
        best = max((p[2] for p in self.pairs), default=None)
        more = "no two layers could be shared" if best is None else f"the most similar pair has {best:.3f}"
        return f"No layers are alike by {self.threshold:g} in their {self.measure}: {more}."

    def _rows(self) -> list[tuple[str, float, int]]:
        together = zip(self.groups, self.similarities, self.saved, strict=True)
        return [(", ".join(group), similarity, saved) for group, similarity, saved in together]

    def sheet(self) -> Sheet:
        columns = ("layers", ("similarity", ".3f"), ("parameters saved", ",d"))
        return Sheet(self._title(), columns, self._rows())

    def __str__(self) -> str:
        lines = [
            f"  {group}: {similarity:.3f}, saves {counted(saved, 'parameter')}"
            for group, similarity, saved in self._rows()
        ]
        return Sheet(self._title(), notes=lines).text()


@checked_but("threshold")
@in_inference
def suggest_sharing(model: keras.Model, data=None, *, threshold: float = 0.9) -> SharingSuggestion:
    """Finds layers that `share_layers` could make one, and groups those that are alike.

    Without data by their weights: `cos(v, w)`, v all kernels of the layer (all weights, where it has none), each minus
    its mean. With data by what they read: linear CKA `||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)` of the centred first
    inputs (Eq. 4, arXiv:1905.00414), rows being samples and positions, at most 2,048. In every group any two members
    reach the threshold (complete linkage). Whole nested models come before the layers in them.

    Args:
        data: samples, see `tfstruct.samples`.
        threshold: in (0, 1].

    Returns:
        `SharingSuggestion`: the groups that `share_layers` takes, and how alike they are.

    Raises:
        PlanError: `threshold` is out of range.
        ModelError: the model has no graph.
        DataError: the samples do not fit the model.

    Example:
        >>> a, b = (keras.layers.Dense(8, name=name) for name in "ab")
        >>> twice = keras.Sequential([keras.Input((8,)), a, b])
        >>> b.set_weights(a.get_weights())
        >>> tfstruct.surgery.suggest_sharing(twice).groups
        (('a', 'b'),)
    """
    number = isinstance(threshold, (int, float, np.number)) and not isinstance(threshold, bool)
    if not number or not 0 < threshold <= 1:
        raise PlanError(f"`threshold` must be in (0, 1]. Received: {threshold!r}.")
    graph = trace(model)
    classes = _classes(graph)
    read = None if data is None else _read(graph, samples_of(model, data), {id(u.op) for own in classes for u in own})
    pairs, groups = [], []
    inside: list[str] = []  # paths of nested models that are in a group
    for own in classes:
        if any(own[0].where.startswith(f"{path}/") for path in inside):
            continue
        alike = np.eye(len(own))
        views = [_weights(unit) if read is None else read[id(unit.op)] for unit in own]
        for i, j in itertools.combinations(range(len(own)), 2):
            alike[i, j] = alike[j, i] = _cosine(views[i], views[j]) if read is None else _cka(views[i], views[j])
            pairs.append((own[i].path, own[j].path, float(alike[i, j])))
        for members in _clusters(alike, float(threshold)):
            least = min(alike[i, j] for i, j in itertools.combinations(members, 2))
            saved = (len(members) - 1) * own[0].parameters
            groups.append((tuple(own[i].path for i in members), float(least), saved))
            inside += [own[i].path for i in members]
    return SharingSuggestion(
        groups=tuple(names for names, _, _ in groups),
        similarities=tuple(least for _, least, _ in groups),
        saved=tuple(saved for _, _, saved in groups),
        pairs=tuple(pairs),
        measure="weights" if data is None else "inputs",
        threshold=float(threshold),
    )


def _classes(graph: Graph) -> list[list[PlacedLayer]]:
    """Sets of layers that can be shared with one another, outer layers first."""
    classes: list[list[PlacedLayer]] = []
    seen: set[int] = set()
    for unit in placed_layers(graph).values():
        if not unit.op.weights or id(unit.op) in seen:
            continue
        seen.add(id(unit.op))
        fits = next((own for own in classes if own[0].where == unit.where and unlike(own[0], unit) is None), None)
        if fits is None:
            classes.append([unit])
        else:
            fits.append(unit)
    classes = [own for own in classes if len(own) > 1]
    return sorted(classes, key=lambda own: own[0].where.count("/"))


def _weights(unit: PlacedLayer) -> np.ndarray:
    values = [keras.ops.convert_to_numpy(w).astype(np.float64) for w in unit.op.weights if "float" in str(w.dtype)]
    kernels = [v for v in values if v.ndim > 1]
    return np.concatenate([(v - v.mean()).ravel() for v in kernels or values] or [np.zeros(1)])


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size else float(np.array_equal(a, b))


def _cka(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) != len(b) or a.shape[1:] != b.shape[1:]:
        a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    else:
        a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    step = -(-len(a) // _ROWS)
    a, b = (x[::step] - x[::step].mean(0) for x in (a, b))
    if len(a) < a.shape[1]:
        k, q = a @ a.T, b @ b.T
        shared, size = (k * q).sum(), np.linalg.norm(k) * np.linalg.norm(q)
    else:
        shared, size = a.T @ b, np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
        shared = (shared**2).sum()
    return float(shared / size) if size else float(np.array_equal(a, b))


def _read(graph: Graph, samples: Samples, wanted: set[int]) -> dict[int, np.ndarray]:
    """Layer id -> the input of its first call, on all samples."""
    parts: dict[int, list[np.ndarray]] = {}

    def body(one: Body, values, first: dict):
        known = {id(t): v for t, v in zip(one.functional.inputs, values, strict=True)}
        for node, step in one.steps:
            op = step.model if isinstance(step, Body) else step.op
            arrived = [known[id(t)] for t in node.input_tensors]
            if id(op) in wanted and id(op) not in first:
                first[id(op)] = keras.ops.convert_to_numpy(arrived[0]).astype(np.float64)
            if isinstance(step, Body):
                given, _ = inputs_and_masks(arrived, step.functional)
                outputs = body(step, given, first)
            else:
                args, kwargs = node.arguments.fill_in(known)
                outputs = keras.tree.flatten(op(*args, **kwargs))
            known.update({id(t): v for t, v in zip(node.outputs, outputs, strict=True)})
        return [known[id(t)] for t in one.functional.outputs]

    for batch in batches_for(graph.model, samples, 32):
        seen: dict[int, np.ndarray] = {}
        body(graph.body, [keras.ops.convert_to_tensor(v) for v in batch.inputs], seen)
        for key, value in seen.items():
            parts.setdefault(key, []).append(value)
    return {key: np.concatenate(values) for key, values in parts.items()}


def _clusters(alike: np.ndarray, threshold: float) -> list[list[int]]:
    """Complete-linkage clustering: merges the two clusters whose least similar members are most similar, repeatedly."""
    clusters = [[i] for i in range(len(alike))]
    while True:
        best, pair = threshold - 1e-6, None
        for a, b in itertools.combinations(range(len(clusters)), 2):
            least = alike[np.ix_(clusters[a], clusters[b])].min()
            if least >= best:
                best, pair = least, (a, b)
        if pair is None:
            return [sorted(c) for c in clusters if len(c) > 1]
        clusters[pair[0]] += clusters.pop(pair[1])
