"""A plan of which channels stay: plain data that can be saved, read, edited and applied again."""

import dataclasses
import hashlib
import json
import numbers
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tfstruct.arguments import checked_but
from tfstruct.errors import PlanError
from tfstruct.graph import Graph, fingerprint
from tfstruct.reporting import OpenedReport, Sheet
from tfstruct.reporting.tables import by_reason, counted
from tfstruct.untrusted import json_text

_FORMAT = 1


@checked_but("keep")
@dataclasses.dataclass(frozen=True)
class Plan(OpenedReport):
    """Which output channels of each layer stay.

    `keep` may be edited in place; coupled layers follow, and `apply` refuses a plan whose layers contradict each other.

    Attributes:
        model: fingerprint of the model that the plan is for.
        keep: layer -> sorted indices of its output channels that stay. A layer inside a nested model is `block/conv`;
            other things that a layer makes are `attention.heads`, `attention.key_dim`. A layer that is not listed
            follows those it is coupled with, and stays whole otherwise.
        widths: layer -> number of its output channels before.
        before, after: `macs`, `params`, `tflite_bytes`, `peak_memory` as far as they are known, at planning time.
        settings: the arguments the plan was made with.
        whole: path of a layer with a kernel -> why none of its channels can go, those inside of other layers too.
        outputs: output that may have fewer channels -> its width before and after.

    Example:
        >>> tfstruct.plan_channels(model, 0.5).save("plan.json")
        >>> plan = tfstruct.Plan.load("plan.json")
        >>> len(plan.keep["hidden"])
        8
    """

    model: str
    keep: dict[str, list[int]]
    widths: dict[str, int]
    before: dict[str, float] = dataclasses.field(default_factory=dict)
    after: dict[str, float] = dataclasses.field(default_factory=dict)
    settings: dict = dataclasses.field(default_factory=dict)
    whole: dict[str, str] = dataclasses.field(default_factory=dict)
    outputs: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    planned: str = ""  # digest of `keep` when the figures were computed

    def __post_init__(self):
        if not isinstance(self.keep, dict) or not all(isinstance(name, str) for name in self.keep):
            raise PlanError(f"`keep` must map names of layers to indices. Received: {type(self.keep).__name__}.")
        for name, places in self.keep.items():
            if isinstance(places, str | bytes) or not isinstance(places, Iterable):
                raise PlanError(f"`keep` must map names of layers to indices. Received: {name!r}: {places!r}.")
        object.__setattr__(self, "opened", tuple(self.opened))  # files have lists
        if not self.planned:
            object.__setattr__(self, "planned", self._digest())

    def _digest(self) -> str:
        plain = {name: [int(i) for i in indices] for name, indices in sorted(self.keep.items())}
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]

    @property
    def edited(self) -> bool:
        """Whether `keep` was changed since the figures were computed."""
        return self._digest() != self.planned

    @property
    def removed(self) -> dict[str, int]:
        """Layer -> number of its channels that go, for those that lose some."""
        lost = {name: self.widths[name] - len(indices) for name, indices in self.keep.items() if name in self.widths}
        return {name: n for name, n in lost.items() if n}

    def to_dict(self) -> dict:
        return {"format": _FORMAT, **super().to_dict()}

    @classmethod
    def from_dict(cls, data: dict) -> "Plan":
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(data, dict) or data.get("format") != _FORMAT or not {"model", "keep", "widths"} <= set(data):
            raise PlanError(
                "This is not a plan of channels: expected a JSON object with format 1, model, keep and widths."
            )
        for key, kind in (
            ("keep", _are_indices),
            ("widths", _is_width),
            ("before", _is_number),
            ("after", _is_number),
            ("outputs", _are_indices),
            ("opaque", _is_text),
            ("whole", _is_text),
            ("settings", lambda value: True),
        ):
            values = data.get(key, {})
            if not isinstance(values, dict) or not all(map(kind, values.values())):
                raise PlanError(f"`{key}` of a plan must map names to {_KINDS[kind]}. Received: {repr(values)[:200]}.")
        for key in ("model", "planned"):
            if not _is_text(data.get(key, "")):
                raise PlanError(f"`{key}` of a plan must be a text. Received: {repr(data[key])[:200]}.")
        opened = data.get("opened", [])
        if not isinstance(opened, list | tuple) or not all(map(_is_text, opened)):
            raise PlanError(f"`opened` of a plan must list paths. Received: {repr(opened)[:200]}.")
        return cls(**{key: value for key, value in data.items() if key in names})

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        return json_text.read(text, cls.from_dict, PlanError, "This is not a plan of channels, which")

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        return json_text.read_file(path, cls.from_dict, PlanError, "is not a plan of channels, which")

    def sheet(self) -> Sheet:
        removed = self.removed
        rows = [
            (name, self.widths[name], self.widths[name] - gone, 1 - gone / self.widths[name])
            for name, gone in removed.items()
        ]
        columns = ("layer", ("channels before", ",d"), ("after", ",d"), ("kept", ".0%"))
        title = (
            f"Plan: removes {sum(removed.values()):,} of {counted(sum(self.widths.values()), 'channel')}, from "
            f"{counted(len(removed), 'layer')}"
        )
        facts = [
            (name, f"{before:,.0f} -> {self.after[name]:,.0f} ({self.after[name] / before:.1%} left)")
            for name, before in self.before.items()
            if before and self.after.get(name) is not None
        ]
        notes = ["edited since: the figures are those of the plan before"] if self.edited else []
        notes += [f"output {name}: width {before:,} -> {after:,}" for name, (before, after) in self.outputs.items()]
        notes += by_reason("stays whole", self.whole)
        return Sheet(title, columns, rows, facts=facts, notes=notes)


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and value < 1e300 and not value <= -1e300


def _is_count(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and not value < 0


def _is_width(value) -> bool:
    return _is_count(value) and value > 0


def _are_indices(value) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and all(map(_is_count, np.asarray(value, object).tolist()))


def _is_text(value) -> bool:
    return isinstance(value, str)


_KINDS = {_is_number: "numbers", _is_width: "widths", _are_indices: "lists of indices", _is_text: "texts"}


def keep_of(graph: Graph, units: np.ndarray) -> dict[str, list[int]]:
    """`Plan.keep` from a boolean mask of the units that stay."""
    stays = graph.units.kept(units)
    return {path: np.flatnonzero(stays[labels]).tolist() for path, labels in graph.makes.items()}


def widths_of_outputs(graph: Graph, units: np.ndarray, names: Sequence[str]) -> dict[str, list[int]]:
    """Of these outputs, the size of the last axis before, and after."""
    stays = graph.units.kept(units)
    named = zip(graph.output_names, graph.outputs, strict=True)
    ends = {name: x.axes[-1] for name, x in named if name in names}
    return {name: [len(own), int(stays[own].sum())] for name, own in ends.items() if own is not None}


def units_of(graph: Graph, plan: Plan) -> np.ndarray:
    """Boolean mask of the units that stay by a plan, which may have been edited.

    Raises:
        PlanError: the plan is for another model, names an unknown layer, lists indices that do not exist, removes what
            has to stay, or contradicts itself.
    """
    if plan.model != fingerprint(graph.model):
        raise PlanError(
            f"The plan was made for a model with fingerprint {plan.model!r}; `{graph.model.name}` has "
            f"{fingerprint(graph.model)}: layers or shapes differ. Plan again with this model."
        )
    parts, makes = graph.units.parts, graph.makes
    stays_for: dict[int, str] = {}
    goes_for: dict[int, str] = {}
    for path, indices in plan.keep.items():
        if path not in makes:
            close = [name for name in makes if name.rsplit("/", 1)[-1] == path] or list(makes)
            raise PlanError(
                f"The plan keeps channels of `{path}`, but no layer of that name makes channels. Those that do: "
                f"{', '.join(close[:8])}{', ...' if len(close) > 8 else ''}."
            )
        labels = makes[path]
        chosen = _checked(path, indices, len(labels))
        kept = np.zeros(len(labels), bool)
        kept[chosen] = True
        staying = set(parts[labels[kept]].ravel().tolist())
        for unit in staying - {0}:
            stays_for.setdefault(unit, path)
        for unit in set(parts[labels].ravel().tolist()) - staying - {0}:
            goes_for.setdefault(unit, path)
    for unit in sorted(set(stays_for) & set(goes_for)):
        raise PlanError(
            f"The plan contradicts itself: `{goes_for[unit]}` gives up a channel that `{stays_for[unit]}`, which is "
            "coupled with it, keeps. Remove it in both, or delete one of the two entries: coupled layers follow."
        )
    keep = np.ones(graph.units.count, bool)
    for unit, path in goes_for.items():
        if unit in graph.units.frozen:
            raise PlanError(f"The plan removes a channel of `{path}` that has to stay: {graph.units.frozen[unit]}.")
        keep[unit] = False
    _check_result(graph, plan, keep)
    return keep


def _checked(path: str, indices, width: int) -> np.ndarray:
    chosen = np.asarray(indices)
    if chosen.size == 0:
        raise PlanError(f"The plan keeps no channel of `{path}`. At least one has to stay.")
    whole = chosen.ndim == 1 and np.issubdtype(chosen.dtype, np.integer)
    if not whole or len(set(chosen.tolist())) != chosen.size or chosen.min() < 0 or chosen.max() >= width:
        raise PlanError(
            f"`keep[{path!r}]` must list different integers in 0..{width - 1}. Received: {repr(indices)[:80]}."
        )
    return chosen


def _check_result(graph: Graph, plan: Plan, keep: np.ndarray) -> None:
    stays = graph.units.kept(keep)
    for path, indices in plan.keep.items():
        if np.flatnonzero(stays[graph.makes[path]]).tolist() != sorted(indices):
            raise PlanError(
                f"The channels of `{path}` are rows times columns (heads and widths inside heads): whole rows or whole "
                "columns go. The list keeps neither."
            )
    for call in graph.calls:
        for channels in call.outputs:
            for labels in channels.axes:
                if labels is not None and len(labels) and not stays[labels].any():
                    raise PlanError(f"The plan leaves `{call.path}` without a channel. At least one has to stay.")
    for block in graph.units.blocks:
        counts = keep[block].sum(axis=1)
        if counts.min() != counts.max():
            raise PlanError(
                f"Grouped layers need equally many channels in each of {len(block)} groups. The plan leaves "
                f"{counts.tolist()}."
            )
