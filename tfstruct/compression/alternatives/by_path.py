"""`ByPath`: the figures of a model by the path of its calls, with what its parts do to their own layers."""

from collections import defaultdict
from collections.abc import Sequence

from tfstruct.analyze.tflite_size import FILE, TENSOR
from tfstruct.compression.alternatives.alternative import Part
from tfstruct.compression.alternatives.sums import Sum, total
from tfstruct.compression.alternatives.variants import Change, Counted, Variant, sorted_out


class ByPath:
    """The figures of a variant by path, with what all other parts but widths do to them."""

    def __init__(self, variant: Variant, parts: Sequence[Part]):
        self.variant, self.counted = variant, variant.counted
        self.others = sorted_out(parts)[3]
        self._stays: dict[str, dict[str, Sum]] = defaultdict(dict)
        self._changed: dict[str, list[tuple[Sum, Change]]] = defaultdict(list)
        self.home: dict[str, str] = {path: path for path in self.counted.calls}
        for part in self.others:
            number = len(part.alternatives)
            for place in range(1, number):
                change = variant.changes[part.name, place]
                for path in change.gone:
                    stays = Sum.where(part.name, number, [i for i in range(number) if i != place])
                    self._stays[path][part.name] = self._stays[path].get(part.name, Sum.of(1)) * stays
                for path in change.made:
                    self._changed[path].append((Sum.where(part.name, number, [place]), change))
                self.home |= change.home
        self.paths = (*self.counted.calls, *(path for path in self._changed if path not in self.counted.calls))

    def gate(self, path: str, with_it: str | None = None) -> Sum:
        """1 where what a path came from is there, else 0.

        Args:
            with_it: only by parts that take away this path too.
        """
        found = Sum.of(1)
        for name, stays in self._stays.get(self.home.get(path, path), {}).items():
            if with_it is None or name in self._stays.get(with_it, {}):
                found *= stays
        return found

    def changed(self, path: str) -> list[tuple[Sum, Change]]:
        """(where, what) of the alternatives that change a path or bring it in."""
        return self._changed.get(path, [])

    def figure(self, name: str, path: str) -> Sum:
        """One figure of a path."""
        base = alone(self.counted, name, path) if path in self.counted.calls else Sum.of(0)
        found = [base]
        for where, change in self.changed(path):
            difference = (alone(change.counted, name, path) - base).reduced()
            if difference.terms:
                found.append(where * difference)
        return (total(found) * self.gate(path)).reduced()

    def all(self, name: str) -> dict[str, Sum]:
        """One figure of every path."""
        return {path: self.figure(name, path) for path in self.paths}


def alone(counted: Counted, name: str, path: str) -> Sum:
    """One figure of a path, without what the first call has of the file as a whole."""
    found = counted.figure(name, path)
    if name == "tflite_tables" and path == counted.graph.calls[0].path:
        found -= Sum.of(FILE + TENSOR * len(counted.graph.body.inputs))
    return found
