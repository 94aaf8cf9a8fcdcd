"""How many channels of a tensor or a weight stay, by the widths that parts may have."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tfstruct.analyze import unit_scores
from tfstruct.compression.alternatives.alternative import Part
from tfstruct.compression.alternatives.sums import Sum, total
from tfstruct.graph import Graph, groups
from tfstruct.surgery.pruning.exact_widths import reachable_widths


class LabelCounts:
    """Counts of label arrays of a graph as sums by the alternatives of its width parts.

    Args:
        graph: of the model, or of one that was made from it and has layers of the same paths.
        widths: the parts whose alternatives say `layer` and `width`.
    """

    def __init__(self, graph: Graph, widths: Sequence[Part]):
        self._kept: dict[str, np.ndarray] = {}  # part -> boolean: alternative, label
        self._by_labels: dict[bytes, Sum] = {}
        self._place: dict[str, int] = {}
        scores = unit_scores(graph, "l2", reduction="mean", normalization="mean", missing="keep") if widths else None
        every = groups(graph)
        for part in widths:
            wanted = {one.settings["layer"] for one in part.alternatives[1:]}
            gone = {
                path: _removals(graph, every, path, scores)
                for path in wanted if path in graph.makes
            }  # fmt: skip
            rows = []
            for one in part.alternatives:
                keep = np.ones(graph.units.count, bool)
                by_width = gone.get(one.settings.get("layer", ""))
                if one.settings and by_width:
                    width = one.settings["width"]
                    keep[by_width[min(by_width, key=lambda n: (abs(n - width), n))]] = False
                rows.append(graph.units.kept(keep))
            kept = np.stack(rows)
            if not kept.all():
                self._place[part.name], self._kept[part.name] = len(self._place), kept

    def of(self, labels: np.ndarray) -> Sum:
        """How many of these stay."""
        labels = np.ravel(labels)
        key = labels.tobytes()
        if key not in self._by_labels:
            self._by_labels[key] = self._counted(labels)
        return self._by_labels[key]

    def product(self, factor: float, arrays: Sequence[np.ndarray]) -> Sum:
        """A factor times the counts of these arrays."""
        found = Sum.of(factor)
        for labels in arrays:
            found *= self.of(labels)
        return found

    def _counted(self, labels: np.ndarray) -> Sum:
        changes = {name: kept[:, labels] for name, kept in self._kept.items() if not kept[:, labels].all()}
        if not changes:
            return Sum.of(len(labels))
        names = list(changes)
        # Which parts each label depends on, as bits: labels of the same parts are counted at once.
        touched = np.stack([~changes[name].all(axis=0) for name in names])
        sets, which = np.unique(touched, axis=1, return_inverse=True)
        which = np.ravel(which)
        terms = []
        for number in range(sets.shape[1]):
            own = [name for name, on in zip(names, sets[:, number], strict=True) if on]
            columns = np.flatnonzero(which == number)
            terms.append(_joint(own, {name: changes[name][:, columns] for name in own}, len(columns)))
        return total(terms)


def _joint(names: Sequence[str], kept: Mapping[str, np.ndarray], count: int) -> Sum:
    """Labels that stay only where all of these parts leave them."""
    if not names:
        return Sum.of(count)
    shape = [len(kept[name]) for name in names]
    if math.prod(shape) * count > 1 << 24:  # too many at once: as if each part removed the same share of any labels
        found = Sum.of(count)
        for name in names:
            found *= Sum.by(name, kept[name].mean(axis=1))
        return found
    stays = np.ones([*[1] * len(names), count], bool)
    for axis, name in enumerate(names):
        stays = stays & kept[name].reshape([-1 if i == axis else 1 for i in range(len(names))] + [count])
    return Sum.joint(names, stays.sum(axis=-1))


def _removals(graph: Graph, every, path: str, scores) -> dict[int, np.ndarray]:
    """Width -> the units that go; empty where the layer's channels belong to several groups."""
    units = set(graph.units.of(graph.makes[path]).tolist())
    own = [group for group in every if units & set(group.units.tolist())]
    return reachable_widths(graph, own[0], path, scores) if len(own) == 1 and own[0].prunable else {}
