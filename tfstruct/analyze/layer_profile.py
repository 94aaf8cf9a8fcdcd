"""What each operation of a model costs: parameters, multiply-accumulates, bytes."""

import dataclasses
import math
from typing import ClassVar

import keras
import numpy as np

from tfstruct.analyze.costs import Costs, itemsize
from tfstruct.analyze.counts import Counter
from tfstruct.analyze.memory import Memory
from tfstruct.errors import ModelError
from tfstruct.graph import Graph, open_and_trace
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.graph.sizes import BY_A_CALL, why_open
from tfstruct.keras_internals.layer_parts import own_weights
from tfstruct.reporting import OpenedReport, Plotted, Sheet
from tfstruct.reporting.figures import BLUE, GREEN, ORANGE
from tfstruct.reporting.tables import named


@dataclasses.dataclass(frozen=True)
class Row:
    """One call of one layer or operation, for one sample.

    Attributes:
        path: its name, after the names of the nested models it is in.
        type: its class.
        shape: of its output, without the batch; the first where there are several.
        params: entries of its weights; 0 where an earlier call has counted them.
        macs: multiply-accumulates; None where no rule knows them and they cannot be counted on what the call traces to.
        weight_bytes: in the dtype they are held in.
        activation_bytes: of its outputs, in the dtype the layer computes in.
        intensity: operations a byte moved, `2 macs / (weight + input + output bytes)`.
        zeros: share of the entries of its kernels and tables that are zero; None where it has none.
    """

    path: str
    type: str
    shape: tuple[int | None, ...]
    params: int
    macs: int | None
    weight_bytes: int
    activation_bytes: int
    intensity: float
    zeros: float | None = None


@dataclasses.dataclass(frozen=True)
class Profile(Plotted, OpenedReport):
    """What a model costs, by operation and in all; for one sample.

    `plot` draws MACs, weight bytes and activation bytes by operation; of more than 60 operations those without MACs are
    left out, unless they hold weights and are no batch norm.

    Attributes:
        model: its name.
        rows: every call in order of execution.
        params, macs, weight_bytes: the totals.
        peak_activation_bytes: live activations at the worst moment, operations running in order, see `Memory`; without
            what `unknown` ones need inside.
        peak_at: path of the operation where that is.
        unknown: paths of operations whose MACs cannot be counted: the total leaves them out.
        inside: paths of operations that no rule knows: their MACs were counted on what their call traces to.
        unread: paths of weights of opened layers that their call never reads: no total has them.
    """

    model: str
    rows: tuple[Row, ...]
    params: int
    macs: int
    weight_bytes: int
    peak_activation_bytes: int
    peak_at: str
    unknown: tuple[str, ...]
    inside: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    _panels: ClassVar[int] = 3

    def summary(self) -> list[tuple[str, str]]:
        """The totals as (what, value) lines."""
        lines = [
            ("model", f"{self.model}, {len(self.rows)} operations"),
            ("parameters", f"{self.params:,}, {self.weight_bytes:,} bytes"),
            ("MACs", f"{self.macs:,}" + (" and those of the operations below" if self.unknown else "")),
            ("peak activations", f"{self.peak_activation_bytes:,} bytes at {self.peak_at or 'no operation'}"),
        ]
        for what, why, paths in (
            ("not counted", "no rule knows", self.unknown),
            ("counted inside", "no rule knows", self.inside),
        ):
            if paths:
                more = f" and {len(paths) - 8} more" if len(paths) > 8 else ""
                lines.append((what, f"{why} {', '.join(paths[:8])}{more}"))
        if self.unread:
            lines.append(("not counted", f"weights that no call reads: {named(self.unread)}"))
        return lines

    def sheet(self) -> Sheet:
        columns: tuple = (
            "layer", "type", "output", ("parameters", ",d"), ("MACs", ",d"), ("weight bytes", ",d"),
            ("activation bytes", ",d"), ("flop/byte", ".1f"),
        )  # fmt: skip
        rows: list[tuple] = [
            (
                row.path, row.type, row.shape, row.params, "?" if row.macs is None else row.macs,
                row.weight_bytes, row.activation_bytes, row.intensity,
            )
            for row in self.rows
        ]  # fmt: skip
        total: tuple = ("total", "", "", self.params, self.macs, self.weight_bytes, "", "")
        if any(row.zeros for row in self.rows):
            columns = (*columns, ("zeros", ".1%"))
            rows = [(*cells, row.zeros) for cells, row in zip(rows, self.rows, strict=True)]
            total = (*total, "")
        return Sheet(f"{self.model}: costs for one sample", columns, rows, total, facts=self.summary())

    def _shown(self) -> list[Row]:
        few = len(self.rows) <= 60
        return [r for r in self.rows if few or r.macs or (r.weight_bytes and r.type != "BatchNormalization")]

    def _size(self) -> tuple[float, float]:
        return 13, 1.4 + 0.19 * len(self._shown())

    def _draw(self, *panels) -> None:
        rows = self._shown()
        y = np.arange(len(rows))
        columns = [
            (f"MACs, {_short(self.macs)} in all", [r.macs or 0 for r in rows], BLUE),
            (f"weight bytes, {_short(self.weight_bytes)} in all", [r.weight_bytes for r in rows], ORANGE),
            ("activation bytes", [r.activation_bytes for r in rows], GREEN),
        ]
        for axis, (title, values, colour) in zip(panels, columns, strict=True):
            axis.barh(y, values, color=colour, height=0.75)
            axis.set_title(title)
            axis.xaxis.set_major_formatter(lambda value, _: _short(value))
            axis.grid(axis="x")
            most = max(values, default=0)
            for i, value in enumerate(values):
                if value >= 0.02 * most > 0:
                    axis.text(value, i, f" {_short(value)}", va="center", fontsize=6.5, color="#444444")
            axis.set_xlim(0, most * 1.14 or 1)
            axis.set_ylim(len(rows) - 0.4, -0.6)
            axis.set_yticks(y, [r.path for r in rows] if axis is panels[0] else [], fontsize=7)


def _short(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def profile(model, input_shape=None, *, open_layers: str | bool = "auto") -> Profile:
    """Counts what each operation of a model costs for one sample.

    A shared layer's parameters count once, its MACs in every call. Additions of biases, activations, pooling and
    normalization count no MACs.

    Args:
        model: a built Sequential or functional `keras.Model`.
        input_shape: of one sample, for models that leave sizes open; a dict by name or a list for several inputs.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Profile`: `rows`, one by operation, and the totals; `str()` is a table.

    Raises:
        ModelError: a subclassed model, or sizes are open and no `input_shape` was given.

    Example:
        >>> costs = tfstruct.profile(model)
        >>> costs.params, costs.macs  # 8 * 16 + 16 + 16 * 2 + 2 weights; 8 * 16 + 16 * 2 products
        (178, 160)
    """
    graph = open_and_trace(model, input_shape, open_layers)
    costs = Costs(graph)
    by_call = costs.by_call()
    counter = Counter(graph.units)
    dtypes = {t.key: x.dtype for t, x in zip(graph.body.inputs, graph.body.functional.inputs, strict=True)}
    for call in graph.calls:
        dtypes |= {t.key: x.dtype for t, x in zip(call.outputs, call.node.outputs, strict=True)}

    def moved(tensors) -> float:
        sizes = [math.prod(math.nan if n is None else n for n in t.shape[1:]) * t.per_sample for t in tensors]
        return sum(size * itemsize(dtypes[t.key]) for size, t in zip(sizes, tensors, strict=True))

    def width(call, i):
        return itemsize(dtypes[(graph.body.inputs if call is None else call.outputs)[i].key])

    rows = []
    for i, call in enumerate(graph.calls):
        macs, weights, out = by_call["macs"][i], by_call["weight_bytes"][i], moved(call.outputs)
        if call.path not in costs.hidden and (math.isnan(macs) or math.isnan(out)):
            raise ModelError(
                f"{why_open(graph)}. `{model.name}` leaves sizes open at {call.path}, output {call.shapes[0]}. "
                f"Give input_shape, the shape of one sample, or call it on a fixed one: {BY_A_CALL}."
            )
        total = weights + moved(call.inputs) + out
        rows.append(
            Row(
                path=call.path,
                type=type(call.op).__name__,
                shape=tuple(call.shapes[0][1:]) if call.shapes else (),
                params=int(by_call["params"][i]),
                macs=None if math.isnan(macs) else round(macs),
                weight_bytes=int(weights),
                activation_bytes=int(out),
                intensity=round(2 * macs / total, 3) if total and not math.isnan(total + macs) else 0.0,
                zeros=_zeros(call.op) if by_call["params"][i] else None,
            )
        )
    timeline = Memory(graph, counter, width).timeline(counter.counts(), unknown=0.0)
    worst = int(np.argmax(timeline))
    return Profile(
        model=model.name,
        rows=tuple(rows),
        params=sum(r.params for r in rows),
        macs=sum(r.macs or 0 for r in rows),
        weight_bytes=sum(r.weight_bytes for r in rows),
        peak_activation_bytes=int(timeline[worst]),
        peak_at=graph.calls[worst].path if graph.calls else "",
        unknown=tuple(r.path for r in rows if r.macs is None),
        inside=tuple(rows[i].path for i, work in costs.inside.items() if work.macs),
        unread=_unread(model, graph) if graph.opened else (),
        opened=graph.opened,
        opaque=graph.opaque,
    )


def _zeros(op) -> float | None:
    kernels = [keras.ops.convert_to_numpy(w) for w in getattr(op, "weights", ()) if len(w.shape) > 1]
    entries = sum(kernel.size for kernel in kernels)
    return 1 - sum(map(np.count_nonzero, kernels)) / entries if entries else None


def _unread(model, graph: Graph) -> tuple[str, ...]:
    read = {id(w) for w in graph.model.weights}
    owners = [(path, op) for path, op in layer_paths(model).items() if isinstance(op, keras.layers.Layer)]
    return tuple(f"{path}/{w.name}" for path, op in owners for w in own_weights(op) if id(w) not in read)
