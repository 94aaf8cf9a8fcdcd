"""`Edited`: the result of an edit of layers: the new model and what was changed."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import keras

from tfstruct.analyze.costs import Costs
from tfstruct.errors import ModelError
from tfstruct.graph import Graph, trace
from tfstruct.surgery.certificate import Difference, certify, difference


@dataclasses.dataclass(frozen=True)
class Edited:
    """A new model, and what was done to get it.

    Attributes:
        model: the new model, uncompiled; the original is untouched.
        changes: (layer, what was done to it), in order.
        skipped: (layer, why nothing was done), for those that were meant and could not be.
        parameters: before and after.
        macs: before and after; None where the model leaves sizes open.
        details: figures of the edit by layer, plain data.
        exact: whether the edit promises equal outputs.
    """

    model: keras.Model
    changes: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...]
    parameters: tuple[int, int]
    macs: tuple[int, int] | None
    details: dict
    exact: bool
    _measure: Callable[[], Difference | None] = dataclasses.field(repr=False, compare=False)

    @functools.cached_property
    def max_difference(self) -> Difference | None:
        """The largest difference between both models' outputs on random inputs; None where their shapes differ.

        Measured when it is first asked for, also by `str`, `table` and `to_dict`: running both models takes longer than
        most edits.

        Raises:
            TfstructError: an exact edit differs by more than rounding explains.
        """
        found = self._measure()
        if self.exact:
            certify(found, self.model.name)
        return found

    def __str__(self) -> str:
        lines = [f"{len(self.changes)} changes: {self._figures()}"]
        width = max((len(layer) for layer, _ in (*self.changes, *self.skipped)), default=0)
        lines += [f"  {layer:<{width}}  {what}" for layer, what in self.changes]
        lines += [f"  {layer:<{width}}  left alone: {why}" for layer, why in self.skipped]
        return "\n".join(lines)

    def _figures(self) -> str:
        parts = [f"parameters {self.parameters[0]:,} -> {self.parameters[1]:,}"]
        if self.macs is not None:
            parts.append(f"MACs {self.macs[0]:,} -> {self.macs[1]:,}")
        if self.max_difference is not None:
            parts.append(f"largest difference on random inputs {self.max_difference}")
        return ", ".join(parts)

    def table(self):
        """A rich table of the changes."""
        from rich.table import Table

        table = Table(title=self._figures(), title_justify="left")
        table.add_column("layer")
        table.add_column("what was done")
        for layer, what in self.changes:
            table.add_row(layer, what)
        for layer, why in self.skipped:
            table.add_row(layer, f"left alone: {why}")
        return table

    def to_dict(self) -> dict:
        """Plain data for JSON, without the model."""
        return {
            "changes": [list(change) for change in self.changes],
            "skipped": [list(skip) for skip in self.skipped],
            "parameters": list(self.parameters),
            "macs": None if self.macs is None else list(self.macs),
            "max_difference": None if self.max_difference is None else dataclasses.asdict(self.max_difference),
            "details": self.details,
        }


def edited(
    graph: Graph,
    model: keras.Model,
    changes: Sequence[tuple[str, str]],
    skipped: Sequence[tuple[str, str]] = (),
    *,
    exact: bool,
    details: dict | None = None,
    seed: int = 0,
) -> Edited:
    """Counts what the edit changed; the difference in outputs is measured when it is asked for.

    Args:
        exact: whether the edit promises equal outputs.
        seed: of the random inputs.
    """
    before = graph.model
    shapes = [x.shape[1:] for x in graph.body.inputs]
    known = shapes if all(None not in shape for shape in shapes) else None

    def measure() -> Difference | None:
        alike = [x.shape for x in before.outputs] == [x.shape for x in model.outputs]
        return difference(graph, model, seed) if alike else None

    try:
        macs = (Costs(graph, ("macs",))()["macs"], Costs(trace(model, known), ("macs",))()["macs"])
    except ModelError:
        macs = None
    parameters = (before.count_params(), model.count_params())
    return Edited(model, tuple(changes), tuple(skipped), parameters, macs, dict(details or {}), exact, measure)
