"""What each call of a model costs where parts are as they are, and what it costs where they are not.

A part changes costs in one of four ways, by the kind of step that offers it: widths change counts of channels; bits
change what kernels take in the file; positions change the work of calls all over the model; all others (forms, blocks)
change their own layers only, which are edited in many parts at once.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from tfstruct.analyze import Costs
from tfstruct.analyze.counts import axis_sizes
from tfstruct.compression.alternatives.alternative import Part
from tfstruct.compression.alternatives.label_counts import LabelCounts
from tfstruct.compression.alternatives.offered import edited
from tfstruct.compression.alternatives.sums import Sum, total
from tfstruct.compression.steps.downsampling import DownsampleEarly
from tfstruct.compression.steps.pruning import PruneChannels
from tfstruct.compression.steps.quantizing import Quantize
from tfstruct.graph import Call, Channels, Graph, trace

Figures = Mapping[str, Mapping[str, Sum]]  # path -> figure -> its value
COUNTED = ("macs", "params", "kernels", "tflite_constants", "tflite_tables")


def sorted_out(parts: Sequence[Part]) -> tuple[list[Part], list[Part], list[Part], list[Part]]:
    """The parts by how they change costs: widths, bits, positions, others."""
    kinds = (PruneChannels.kind, Quantize.kind, DownsampleEarly.kind)
    found = [[part for part in parts if part.kind == kind] for kind in kinds]
    return found[0], found[1], found[2], [part for part in parts if part.kind not in kinds]


class Counted:
    """A traced model with its figures by path, as sums by the alternatives of its widths.

    Attributes:
        graph: the model.
        costs: of it.
        counts: of channels.
        calls: path -> the calls of that path.
    """

    def __init__(self, graph: Graph, widths: Sequence[Part]):
        self.graph, self.costs = graph, Costs(graph)
        self.counts = LabelCounts(graph, widths)
        self.calls: dict[str, list[Call]] = {}
        for call in graph.calls:
            self.calls.setdefault(call.path, []).append(call)
        self._monomials: dict[str, dict[str, list]] = {name: defaultdict(list) for name in (*COUNTED, "widths")}
        for name, found in self._monomials.items():
            for row, factor, labels in self.costs.monomials(name):
                found[graph.calls[row].path].append((factor, labels))

    def figure(self, name: str, path: str) -> Sum:
        """One figure of all calls of a path."""
        return total(self.counts.product(factor, labels) for factor, labels in self._monomials[name][path]).reduced()

    def figures(self, path: str) -> dict[str, Sum]:
        """All that are counted."""
        return {name: self.figure(name, path) for name in COUNTED}

    def path_of(self, layer: str) -> str:
        """The path of the call that a layer belongs to, which may be one inside of another; empty if there is none."""
        while layer and layer not in self.calls:
            layer = layer.rpartition("/")[0]
        return layer

    def elements(self, tensor: Channels, unknown: float = np.nan) -> Sum:
        """The entries of a tensor a sample; where sizes are open, `unknown` times the channels that may go."""
        factor, held = axis_sizes(tensor.shape[1:], tensor.axes[1:])
        return self.counts.product(unknown if factor is None else factor * tensor.per_sample, held)

    def widths(self, path: str) -> list[Sum]:
        """The output channels of each kernel of a path."""
        return [self.counts.product(factor, labels) for factor, labels in self._monomials["widths"][path]]


@dataclasses.dataclass(frozen=True)
class Change:
    """What an alternative does to the layers of its part.

    Attributes:
        gone: the paths that are no longer there.
        made: paths of what is there instead: changed layers under their own, and new ones.
        home: new path -> that of the layer that it came from.
        counted: the model that they are in.
    """

    gone: frozenset[str]
    made: tuple[str, ...]
    home: Mapping[str, str]
    counted: Counted


@dataclasses.dataclass(frozen=True)
class Variant:
    """A model at some positions, everything else as it is.

    Attributes:
        where: 1 at the choices of these positions, else 0.
        positions: part -> number of its alternative.
        counted: its figures.
        changes: (part, number of its alternative) -> what that changes.
    """

    where: Sum
    positions: Mapping[str, int]
    counted: Counted
    changes: Mapping[tuple[str, int], Change]


def over_variants(variants: Sequence[Variant], values: Sequence[Sum]) -> Sum:
    """A figure over all positions: its value at the first variant, and by how much others differ from it."""
    first, terms = values[0], [values[0]]
    for variant, value in zip(variants[1:], values[1:], strict=True):
        difference = (value - first).reduced()
        if difference.terms:
            terms.append(variant.where * difference)
    return total(terms)


def variants_of(graph: Graph, parts: Sequence[Part]) -> Iterator[Variant]:
    """The model at all positions that it may have, the original first."""
    widths, _, positions, others = sorted_out(parts)
    for places in itertools.product(*(range(len(part.alternatives)) for part in positions)):
        where = Sum.of(1)
        for part, place in zip(positions, places, strict=True):
            where *= Sum.where(part.name, len(part.alternatives), [place])
        chosen = dict(zip(positions, places, strict=True))
        at = graph if not any(places) else trace(_edited(graph.model, chosen))
        counted = Counted(at, widths)
        yield Variant(where, {part.name: i for part, i in chosen.items()}, counted, _changes(counted, others, widths))


def _edited(model: keras.Model, picked: Mapping[Part, int]) -> keras.Model:
    return edited(model, {part: part.alternatives[place] for part, place in picked.items()})[0]


def _changes(base: Counted, parts: Sequence[Part], widths: Sequence[Part]) -> dict[tuple[str, int], Change]:
    """One edit of the model for many parts at once."""
    found = {}
    for batch in _apart(parts):
        for picked in _rounds(batch):
            made = Counted(trace(_edited(base.graph.model, picked)), widths)
            new = [path for path in made.calls if path not in base.calls]
            for part, place in picked.items():
                own = [path for path in base.calls if _belongs(path, part)]
                mine = {path: home for path in new if (home := _home(path, part, picked))}
                gone = frozenset(path for path in own if path not in made.calls)
                there = tuple(path for path in made.calls if path in mine or path in own)
                found[part.name, place] = Change(gone, there, mine, made)
    return found


def _rounds(batch: Sequence[Part]) -> list[dict[Part, int]]:
    """All alternatives of these parts, one of each part at a time; those of one method together, as they are one step
    and the model is made anew once."""
    rounds: dict[tuple[str, int], dict[Part, int]] = {}
    for part in batch:
        numbers: dict[str, int] = defaultdict(int)
        for place, one in enumerate(part.alternatives[1:], 1):
            method = str(one.settings.get("method", ""))
            rounds.setdefault((method, numbers[method]), {})[part] = place
            numbers[method] += 1
    return list(rounds.values())


def _apart(parts: Sequence[Part]) -> list[list[Part]]:
    """The parts in batches of one kind whose layers have nothing to do with each other."""
    batches: list[tuple[str, set[str], list[Part]]] = []
    for part in parts:
        for kind, layers, batch in batches:
            if kind == part.kind and not layers & set(part.layers):
                layers |= set(part.layers)
                batch.append(part)
                break
        else:
            batches.append((part.kind, set(part.layers), [part]))
    return [batch for _, _, batch in batches]


def _belongs(path: str, part: Part) -> bool:
    return any(path == layer or path.startswith(f"{layer}/") for layer in part.layers)


def _home(path: str, part: Part, picked: Mapping[Part, int]) -> str:
    """The layer of a part that a new path came from: new layers are named after it. Empty if it is another part's."""
    named = [layer for other in picked for layer in other.layers if path.startswith(f"{layer}_")]
    best = max(named, key=len, default=part.layers[0] if len(picked) == 1 else "")
    return best if best in part.layers else ""
