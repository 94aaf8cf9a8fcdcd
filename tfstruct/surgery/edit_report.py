"""What an edit of layers changed."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import keras

from tfstruct.analyze.costs import Costs
from tfstruct.errors import ModelError
from tfstruct.graph import Graph, trace
from tfstruct.reporting import OpenedReport, Result, Sheet
from tfstruct.reporting.tables import counted
from tfstruct.surgery.certificate import Difference, certify, difference
from tfstruct.surgery.compiling import compile_like


@dataclasses.dataclass(frozen=True)
class EditReport(OpenedReport):
    """What was done to the layers of a model.

    Attributes:
        name: of the new model.
        changes: (layer, what was done to it), in order.
        skipped: (layer, why nothing was done), for those that were meant and could not be.
        parameters: before and after.
        macs: before and after; None where the model leaves sizes open.
        details: figures of the edit by layer, plain data.
        exact: whether the edit promises equal outputs.
    """

    name: str
    changes: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...]
    parameters: tuple[int, int]
    macs: tuple[int, int] | None
    details: dict
    exact: bool
    _measure: Callable[[], Difference | None] = dataclasses.field(repr=False, compare=False)

    _derived: ClassVar[tuple[str, ...]] = ("max_difference",)

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
            certify(found, self.name)
        return found

    def sheet(self) -> Sheet:
        parts = [f"parameters {self.parameters[0]:,} -> {self.parameters[1]:,}"]
        if self.macs is not None:
            parts.append(f"MACs {self.macs[0]:,} -> {self.macs[1]:,}")
        if self.max_difference is not None:
            parts.append(f"largest difference on random inputs {self.max_difference}")
        title = f"{counted(len(self.changes), 'change')}: {', '.join(parts)}"
        return Sheet(title, ("layer", "what was done"), self.changes, left_alone=self.skipped)


def edited(
    graph: Graph,
    model: keras.Model,
    changes: Sequence[tuple[str, str]],
    skipped: Sequence[tuple[str, str]] = (),
    *,
    exact: bool,
    details: dict | None = None,
    seed: int = 0,
) -> Result:
    """The new model with its `EditReport`; the difference in outputs is measured when it is asked for.

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
    done = tuple(changes), tuple(skipped)
    report = EditReport(
        model.name, *done, parameters, macs, dict(details or {}), exact, measure, opened=graph.opened,
        opaque=graph.opaque,
    )  # fmt: skip
    compile_like(model, before)
    return Result(model, report)
