"""`analyze_bottlenecks`: finds layers that are too wide, too narrow or without effect, and edits that fix them."""

import dataclasses
import math

import keras
import numpy as np

from tfstruct.analyze.inference import in_inference
from tfstruct.analyze.losses import loss_function
from tfstruct.analyze.masking import masked
from tfstruct.analyze.names import by_name
from tfstruct.analyze.scores import unit_scores
from tfstruct.arguments import checked
from tfstruct.errors import PlanError
from tfstruct.graph import Graph, Group, In, Out, open_and_trace
from tfstruct.graph.blocks import atoms
from tfstruct.graph.opening import open_by_itself
from tfstruct.graph.sizes import fixed_batch
from tfstruct.reporting import OpenedReport, Result, Sheet
from tfstruct.reporting.tables import counted
from tfstruct.samples.for_model import samples_of
from tfstruct.surgery.certificate import draw
from tfstruct.surgery.grow.observed import Observed, effective_rank, principal
from tfstruct.surgery.grow.remedies import prune_group, reuse
from tfstruct.surgery.grow.widening import check_growth, widen
from tfstruct.surgery.layers.layer_edits import delete_layers

_SAMPLES = 256  # looked at
_WIDE = 1 / 3  # effective rank / width of a layer that is too wide: no more than that
_FAR = 1 / 8  # principal dimensions / width, where no neighbour is narrower
_USED = 0.75  # effective rank / width of a layer that is too narrow: at least that
_NARROW = 3  # neighbours / width
_NOTHING = 0.05  # relative change of the outputs that counts as none
_SPARE = 0.02  # loss of accuracy that counts as none
_COLUMNS = ("layer", "kind", ("severity", ".2f"), "why", "remedy")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One layer and its problem.

    Attributes:
        layer: its name; of coupled layers the first.
        kind: `"narrow"`, `"wide"` or `"redundant"`.
        severity: in [0, 1].
        why: the figures behind it.
        edit: `"widen"`, `"prune"`, `"delete"` or `"reuse"`: what `apply` does; empty where nothing can be done.
        advice: the edit in words.
        target: the new width, the layers to be deleted, or the layer whose output can be taken instead.
    """

    layer: str
    kind: str
    severity: float
    why: str
    edit: str
    advice: str
    target: int | tuple[str, ...]

    def apply(self, model: keras.Model) -> Result:
        """Applies the edit to a model of the same structure, its custom layers opened; returns a new model."""
        target, model = self.target, open_by_itself(model).model
        if isinstance(target, tuple):
            if self.edit == "delete":
                return delete_layers(model, target)
            if self.edit == "reuse":
                return reuse(model, self.layer, target[0])
        elif self.edit == "widen":
            return widen(model, self.layer, target, noise=0.01)
        elif self.edit == "prune":
            return prune_group(model, self.layer, target)
        raise PlanError(f"`{self.layer}`: {self.advice}")


@dataclasses.dataclass(frozen=True)
class Bottlenecks(OpenedReport):
    """What `analyze_bottlenecks` found.

    Attributes:
        model: its name.
        metric: `"accuracy"`, `"loss"` or, without labels, `"outputs"`: what masking and deleting is measured by.
        findings: the worst first.
        layers: by name of each group of channels: `width`, `principal` (dimensions of its activations that hold 99 %
            of their variance), `effective_rank`, `kernel_rank`, `sensitivity` (the metric's change when a quarter of
            the channels is masked; `per_channel`, divided by their number), `before` and `after` (widths of the
            neighbours).
    """

    model: str
    metric: str
    findings: tuple[Finding, ...]
    layers: dict[str, dict[str, float]]

    def sheet(self) -> Sheet:
        if not self.findings:
            groups = counted(len(self.layers), "group")
            return Sheet(
                f"{self.model}: nothing too wide, too narrow or redundant among {groups} of channels", _COLUMNS
            )
        title = f"{self.model}: {counted(len(self.findings), 'finding')}, measured by {self.metric}"
        return Sheet(title, _COLUMNS, [(f.layer, f.kind, f.severity, f.why, f.advice) for f in self.findings])


@checked
@in_inference
def analyze_bottlenecks(
    model: keras.Model, data=None, labels=None, *, loss=None, open_layers: str | bool = "auto"
) -> Bottlenecks:
    """Looks for layers that are too wide, too narrow or without effect, and says which edit mends each.

    - wide: the effective rank exp(-sum p log p) of its activations, p the normalized eigenvalues of their covariance
      (Roy and Vetterli, 2007), is at most a third of the width; it is three times as wide as its neighbours, or an
      eighth of the width holds 99 % of the variance; and masking the quarter of its channels that matters least costs
      little, in all or by channel. Edit: channels beyond those dimensions go, half of them at least.
    - narrow: a third or less of the widths on both sides, and the effective rank of its activations uses it up.
      Edit: `widen`, with a noise of 1 % that parts the copies.
    - redundant: without the layer (its batch norm and activation with it) the outputs hardly change; or its outputs
      are those of another layer, cosine above 0.999. Edit: it is deleted, or the other's outputs are taken.

    Args:
        model: a Sequential or functional model.
        data, labels: samples as `sensitivity` takes them; the first 256 are looked at. Without data random inputs stand
            in, which tell less; without labels the outputs' relative change measures what the accuracy would.
        loss: measures instead of the accuracy, where labels are no classes; by default that of the compiled model.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Bottlenecks`: the findings, and by `.apply` the model that they recommend.

    Raises:
        ModelError: the model has no graph.
        DataError: data that do not fit the model.

    Example:
        >>> found = tfstruct.surgery.analyze_bottlenecks(model, x)
        >>> [finding.layer for finding in found.findings if finding.kind == "narrow"]
        []
    """
    graph = open_and_trace(model, open_layers=open_layers)
    flat, y = _samples(graph, data, labels)
    seen = Observed(graph, flat)
    metric, cost = _metric(graph, seen, y, loss)
    rows = _rows(graph, seen, cost)
    findings = _redundant(graph, seen, cost)
    gone = {
        layer
        for f in findings
        for layer in (f.target if f.edit == "delete" and isinstance(f.target, tuple) else (f.layer,))
    }
    narrow = [x for name, (_, row, _) in rows.items() if (x := _narrow(graph, name, row)) and x.layer not in gone]
    # What reads a narrow layer, and what it reads, has its low rank from there.
    starved = {f.layer for f in narrow}
    starving = {name for f in narrow for name in rows[f.layer][2]}
    # Their low rank makes masking them cheap as well, so they do not tell what a channel usually costs. Verdicts with
    # these thresholds: the same over seeds and processors for networks of three data sets, in test_bottlenecks.py.
    costs = [
        row["per_channel"] for name, (_, row, before) in rows.items() if not (starved & before or name in starving)
    ]
    usual = float(np.median(costs)) if costs else 0.0
    wide = [
        x
        for name, (_, row, before) in rows.items()
        if not (starved & before or name in starving) and (x := _wide(name, row, metric, usual)) and x.layer not in gone
    ]
    findings = sorted([*findings, *narrow, *wide], key=lambda f: (-f.severity, f.layer))
    layers = {name: row for name, (_, row, _) in rows.items()}
    return Bottlenecks(model.name, metric, tuple(findings), layers, opened=graph.opened, opaque=graph.opaque)


def _samples(graph: Graph, data, labels):
    if data is None:
        rng = np.random.default_rng(0)
        parts = [draw(graph, rng) for _ in range(1 if fixed_batch(graph.model) else 16)]
        return [np.concatenate(columns) for columns in zip(*parts, strict=True)], None
    count = fixed_batch(graph.model) or _SAMPLES  # all at once
    found = samples_of(graph.model, data, labels, use_labels=True, limit=count).in_memory()
    return found.inputs, found.labels


def _metric(graph: Graph, seen: Observed, y, loss):
    """(name, function of outputs: how much worse than the unchanged model; 0 for equal outputs)."""
    base = seen.outputs
    if y is None:
        return "outputs", lambda outputs: _changed(base, outputs)
    one = len(base) == 1 and hasattr(y, "shape")
    if one and loss is None and (np.issubdtype(y.dtype, np.integer) or y.shape == base[0].shape != (len(y), 1)):

        def right(out):
            guess = out.argmax(-1) if out.shape[-1] > 1 else (out[..., 0] > 0.5).astype(int)
            wanted = y.argmax(-1) if y.shape == out.shape and out.shape[-1] > 1 else y
            return float(np.mean(guess.ravel() == wanted.ravel()))

        before = right(base[0])
        return "accuracy", lambda outputs: before - right(outputs[0])
    function = loss_function(graph.model, loss, "analyze_bottlenecks with labels that are no classes")

    def value(outputs):
        return float(function(y, keras.tree.pack_sequence_as(graph.body.functional.output, outputs)))

    before = value(base)
    return "loss", lambda outputs: (value(outputs) - before) / max(abs(before), 1e-12)


def _changed(before, after) -> float:
    """||a - b|| / ||a - mean of a||, of the output that changes most."""
    return max(
        float(np.linalg.norm(a - b) / np.maximum(np.linalg.norm(a - a.mean(axis=0)), 1e-12))
        for a, b in zip(before, after, strict=True)
    )


def _rows(graph: Graph, seen: Observed, cost):
    """Group name -> the group, its figures, and the names of the groups that feed it; for groups that can change."""
    named = by_name(graph)
    places = {number: name for name, group in named.items() for number in group.units.tolist()}
    scores = unit_scores(graph, "l2", missing="keep")
    rows = {}
    for name, group in named.items():
        matrix = seen.channels(group)
        before, after, feeds = _neighbours(graph, group, places)
        if not group.prunable or matrix is None or name not in graph.makes:
            continue
        width = matrix.shape[1]
        gone = [unit for atom in atoms(group.free, group.blocks, scores)[: max(_quarter(group), 1)] for unit in atom]
        keep = np.ones(graph.units.count, bool)
        keep[gone[: max(group.width - 1, 0)]] = False
        with masked(graph, keep):
            sensitivity = cost(Observed.run(graph, seen.inputs))
        row = {
            "width": width,
            "principal": principal(matrix),
            "effective_rank": round(effective_rank(matrix), 2),
            "kernel_rank": round(_kernel_rank(graph, group), 2),
            "sensitivity": round(float(sensitivity), 4),
            "per_channel": float(sensitivity) / max(len(gone), 1),
            "before": before,
            "after": after,
        }
        rows[name] = (group, row, feeds)
    return rows


def _quarter(group: Group) -> int:
    per = max(len(block) for block in group.blocks) if group.blocks else 1
    return group.width // (4 * per)


def _neighbours(graph: Graph, group: Group, places: dict[int, str]) -> tuple[int, int, set[str]]:
    """Widths of the narrowest layers before and after (0 for none), and the names of the groups before."""
    before: list[int] = []
    after: list[int] = []
    feeds: set[str] = set()
    for slot in graph.slots:
        outs = [labels for _, along, labels in slot.tied() if isinstance(along, Out)]
        ins = [labels for _, along, labels in slot.tied() if isinstance(along, In)]
        own = {u for labels in outs for u in graph.units.of(labels).tolist()}
        came = {u for labels in ins for u in graph.units.of(labels).tolist()}
        if len(slot.variable.shape) < 2:
            continue
        if own & set(group.units.tolist()) and not came & set(group.units.tolist()):
            before.append(len(ins[0]) if ins else int(slot.variable.shape[-2]))
            feeds |= {places[u] for u in came if u in places}
        elif came & set(group.units.tolist()) and outs and not own & set(group.units.tolist()):
            after.append(max(len(labels) for labels in outs))
    return min(before, default=0), max(after, default=0), feeds


def _kernel_rank(graph: Graph, group: Group) -> float:
    """Effective rank of the first kernel that makes the channels."""
    for slot in graph.slots:
        for axis, along, labels in slot.tied():
            if (
                len(slot.variable.shape) > 1
                and isinstance(along, Out)
                and set(graph.units.of(labels).tolist()) & set(group.units.tolist())
            ):
                value = np.moveaxis(keras.ops.convert_to_numpy(slot.variable).astype("float64"), axis, -1)
                return effective_rank(value.reshape(-1, value.shape[-1]), centred=False)
    return 0.0


def _narrow(graph: Graph, name: str, row: dict) -> Finding | None:
    width, sides = row["width"], min(row["before"], row["after"])
    if not width * _NARROW <= sides or row["effective_rank"] < _USED * width or width < 1:
        return None
    to = width * math.ceil(max(math.sqrt(width * sides), 2 * width) / width)
    why = f"{width} channels between {row['before']} and {row['after']}, effective rank {row['effective_rank']:.1f}"
    severity = min(1.0, 0.5 + 0.5 * (1 - width * _NARROW / sides))
    try:
        check_growth(graph, name, to)
    except PlanError as error:
        return Finding(name, "narrow", severity, why, "", f"it cannot grow: {error}", 0)
    return Finding(name, "narrow", severity, why, "widen", f"widen it to {to}", to)


def _wide(name: str, row: dict, metric: str, usual: float) -> Finding | None:
    width, needed, rank = row["width"], row["principal"], row["effective_rank"]
    apart = width >= _NARROW * max(row["before"], row["after"]) or needed <= _FAR * width
    spare = row["sensitivity"] <= (_SPARE if metric == "accuracy" else 0.25) or row["per_channel"] <= usual / 2
    if rank > _WIDE * width or not apart or not spare or width < 8:
        return None
    to = min(math.ceil(1.25 * needed), width // 2)
    why = f"effective rank {rank:.1f} of {width}, {needed} dimensions hold 99 % of the variance"
    return Finding(name, "wide", 1 - rank / (_WIDE * width) / 2, why, "prune", f"keep {to} of its channels", to)


def _redundant(graph: Graph, seen: Observed, cost) -> list[Finding]:
    found: list[Finding] = []
    taken: set[str] = set()
    for names, ops in seen.chains():
        outputs = Observed.run(graph, seen.inputs, without=ops)
        change = _changed(seen.outputs, outputs)
        if change > 4 * _NOTHING or (change > _NOTHING and cost(outputs) > _SPARE / 2):
            continue
        if set(names) & taken:
            continue
        taken |= set(names)
        why = f"without it the outputs change by {change:.1%}"
        found.append(
            Finding(names[0], "redundant", 1 - change, why, "delete", f"delete {', '.join(names)}", tuple(names))
        )
    for first, second, cosine in seen.twins():
        if {first, second} & taken:
            continue
        taken.add(second)
        why = f"its outputs are those of {first} (cosine {cosine:.4f})"
        found.append(Finding(second, "redundant", cosine, why, "reuse", f"take those of {first}", (first,)))
    return found
