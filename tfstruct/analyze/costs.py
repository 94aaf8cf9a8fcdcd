"""What a model costs with any choice of its units, counted on the graph: nothing is rebuilt."""

import copy
from collections.abc import Iterator, Sequence

import numpy as np

from tfstruct.analyze.counts import Counter, Terms, axis_sizes
from tfstruct.analyze.memory import Memory
from tfstruct.analyze.tflite_size import ZERO_POINT, add_tflite_bytes
from tfstruct.analyze.traced_work import OPEN, works
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.graph import Graph
from tfstruct.graph.sizes import BY_A_CALL, why_open

COSTS = ("macs", "params", "tflite_bytes", "peak_memory")
# What is counted by call; `tflite_bytes` is the sum of the two last.
_COUNTED = ("macs", "params", "weight_bytes", "kernels", "tflite_constants", "tflite_tables")


class Costs:
    """The costs of what stays of a graph, a millisecond or so a question.

    - `macs`: multiply-accumulates for one sample, `sum of factor * product of kept channels` over all calls. Those of a
      call that no rule knows are counted on what it traces to, see `traced_work`.
    - `params`: entries of all weights, a shared layer's once.
    - `tflite_bytes`: at least the size of the int8 file that `to_tflite` writes, see `tflite_size`.
    - `peak_memory`: bytes of live activations at the worst moment, one byte an element, see `Memory`.

    Args:
        graph: from `tfstruct.graph.trace`.
        names: the costs that are wanted; those that are unknown raise only where they are.

    Attributes:
        inside: by number of a call, what was counted inside of it, as no rule says it.
    """

    def __init__(self, graph: Graph, names: Sequence[str] = COSTS):
        self.graph, self.names = graph, _checked(names)
        self._counter = Counter(graph.units)
        rows = max(len(graph.calls), 1)
        self._terms = {name: Terms(self._counter, rows) for name in _COUNTED}
        self.inside = works(graph)
        for row, call in enumerate(graph.calls):
            if row in self.inside:
                macs = self.inside[row].macs
                self._terms["macs"].add(row, None if macs is None else macs * call.per_sample)
                continue
            for times, labels in call.costs:
                self._terms["macs"].add(row, times, labels)
        self._add_weights()
        widths = add_tflite_bytes(self._terms["tflite_constants"], self._terms["tflite_tables"], graph)
        self._widths = Terms(self._counter, len(widths))
        for number, (_, factor, held) in enumerate(widths):
            self._widths.add(number, factor, held)
        self._with_width = [row for row, _, _ in widths]
        self._memory = Memory(graph, self._counter, lambda call, i: 1)

    def _add_weights(self) -> None:
        seen: set[int] = set()

        def add(row, variable):
            if id(variable) in seen:
                return
            seen.add(id(variable))
            slot = self.graph.slot_of.get(id(variable))
            axes = [None] * len(variable.shape) if slot is None else [a and a.labels for a in slot.axes]
            factor, held = axis_sizes(variable.shape, axes)
            assert factor is not None  # a weight has no open sizes
            factor /= 1 if slot is None else slot.groups
            self._terms["params"].add(row, factor, held)
            self._terms["weight_bytes"].add(row, factor * itemsize(variable.dtype), held)
            if len(variable.shape) > 1:
                self._terms["kernels"].add(row, factor, held)

        for row, call in enumerate(self.graph.calls):
            for variable in getattr(call.op, "weights", ()):
                add(row, variable)
        for variable in self.graph.model.weights:
            add(0, variable)

    def of(self, names: Sequence[str]) -> "Costs":
        """The same counts, of which other costs are wanted."""
        other = copy.copy(self)
        other.names = _checked(names)
        return other

    def __call__(self, keep: np.ndarray | None = None) -> dict[str, int]:
        """The costs by name; `keep` is boolean, by unit, by default all.

        Raises:
            ModelError: a cost depends on a size that the model leaves open, or on what happens inside of a layer where
                that cannot be counted; the message names it.
        """
        found = self.known(keep)
        for name in self.names:
            if name not in found:
                raise ModelError(self._why(name))
        return found

    def known(self, keep: np.ndarray | None = None) -> dict[str, int]:
        """The same without those that are unknown."""
        counts = self._counter.counts(keep)
        found = {}
        for name in self.names:
            value = self.timeline(keep).max() if name == "peak_memory" else self._by_call(name, counts).sum()
            if not np.isnan(value):
                found[name] = round(float(value))
        return found

    @property
    def hidden(self) -> dict[str, str]:
        """By path, why what happens inside of a call cannot be counted, whatever the sizes."""
        found = {self.graph.calls[row].path: work.why for row, work in self.inside.items()}
        return {path: why for path, why in found.items() if why not in ("", OPEN)}

    def _why(self, name: str) -> str:
        """Why a cost is unknown, as a sentence."""
        of = f"`{self.graph.model.name}`"
        if self.hidden:
            said = "; ".join(f"`{path}`: {why}" for path, why in list(self.hidden.items())[:4])
            more = f"; and {len(self.hidden) - 4} more" if len(self.hidden) > 4 else ""
            return (
                f"The {name} of {of} are unknown: no rule knows the work of {said}{more}. Write a rule "
                "(tfstruct.graph.rule) that notes it by call.macs, or leave this figure out."
            )
        return (
            f"{why_open(self.graph)}. {of} leaves spatial sizes open, so its {name} are unknown. Give input_shape, or "
            f"call it on a fixed one: {BY_A_CALL}."
        )

    def by_call(self, keep: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """`macs`, `params`, `weight_bytes` (in their dtype) and `tflite_bytes` of each call; NaN where unknown."""
        counts = self._counter.counts(keep)
        names = ("macs", "params", "weight_bytes", "tflite_bytes")
        return {name: self._by_call(name, counts)[: len(self.graph.calls)] for name in names}

    def monomials(self, name: str) -> Iterator[tuple[int, float, list[np.ndarray]]]:
        """(number of a call, factor, label arrays) whose products, factor times the counts of what stays of these, add
        up to a figure: `macs`, `params`, `kernels` (entries of weights of two axes or more), `tflite_constants`,
        `tflite_tables` (what describes the tensors of the file, an upper bound); `widths`: of each kernel in the file,
        its output channels, which have a zero point of `ZERO_POINT` bytes for each width that there is."""
        if name != "widths":
            return self._terms[name].monomials()
        return ((self._with_width[number], factor, labels) for number, factor, labels in self._widths.monomials())

    @property
    def memory(self) -> Memory:
        """When which tensor lives."""
        return self._memory

    def _by_call(self, name: str, counts: np.ndarray) -> np.ndarray:
        if name != "tflite_bytes":
            return self._terms[name].values(counts)
        values = self._terms["tflite_constants"].values(counts) + self._terms["tflite_tables"].values(counts)
        values[0] += ZERO_POINT * np.unique(self._widths.values(counts)).sum()  # of the file, so with the first call
        return values

    def timeline(self, keep: np.ndarray | None = None) -> np.ndarray:
        """Live activation bytes during each call, one byte an element."""
        return self._memory.timeline(self._counter.counts(keep))


def _checked(names: Sequence[str]) -> tuple[str, ...]:
    unknown = set(names) - set(COSTS)
    if unknown:
        raise ArgumentError(f"`names` must be of {', '.join(COSTS)}. Received: {', '.join(sorted(unknown))}.")
    return tuple(names)


def itemsize(dtype) -> int:
    """Bytes of one element."""
    name = str(dtype)
    return {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "string": 8}.get(name) or np.dtype(name).itemsize
