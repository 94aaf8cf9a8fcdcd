"""`cost_tables`: what each call of a model costs, by the alternatives that it depends on; no model per choice is made.

Multiply-accumulates and parameters are those of the assembled model; bytes those of its int8 file, but for what the
tables of a file take, which is estimated and brought into line with the plain int8 file; memory is that of a runtime
that runs one operation after another.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tfstruct.analyze.tflite_size import FILE, TENSOR, ZERO_POINT
from tfstruct.compression.alternatives.alternative import Part
from tfstruct.compression.alternatives.by_path import ByPath, alone
from tfstruct.compression.alternatives.cost_table import MEMORY, Cost, CostTable, Need, SharedCost, totals
from tfstruct.compression.alternatives.sums import Sum, along, total
from tfstruct.compression.alternatives.variants import (
    COUNTED,
    Change,
    Counted,
    Variant,
    over_variants,
    sorted_out,
    variants_of,
)
from tfstruct.convert.table_bytes import bytes_by_operator
from tfstruct.graph import Call, Graph
from tfstruct.precisions import PRECISIONS

_LEAST, _MOST = 0.2, 1.5  # of the estimate of a file's tables, that the plain file says
_INT8 = 8  # bits of a kernel's weights in the plain file
_COMBINATIONS = 1024  # of alternatives that the width of a kernel may depend on for its zero points to follow it
_ALWAYS: Need = (), np.ones((), bool)
_SMALL = 0.005  # share of the file below which zero points need not be exact


def cost_tables(
    graph: Graph,
    parts: Sequence[Part],
    plain: tuple[bytes, Mapping[str, tuple[str, ...]]] | None = None,
    variants: Sequence[Variant] | None = None,
) -> tuple[Cost, ...]:
    """Tables of `macs`, `params`, `tflite_bytes` and `memory@...` of a model, by the alternatives of its parts.

    Args:
        graph: of the model.
        parts: what may be decided, see `offered.parts_of`.
        plain: its int8 file, and tensor -> Keras layers, as `convert.draft` gives them, which say what the tables of
            the file take; without it the bytes are an upper bound.
        variants: from `variants_of`, where they are known.

    Returns:
        The tables; `cost_table.totals` of them are the figures of a choice.

    Example:
        >>> from tfstruct.compression.alternatives.cost_table import totals
        >>> from tfstruct.compression.alternatives.cost_tables import cost_tables
        >>> totals(cost_tables(tfstruct.graph.trace(model), []), {})["params"] == model.count_params()
        True
    """
    found = list(variants_of(graph, parts)) if variants is None else list(variants)
    plans = [ByPath(variant, parts) for variant in found]
    by_path = {name: _by_path(found, [plan.all(name) for plan in plans]) for name in COUNTED}
    bytes_of = _added(
        by_path["tflite_constants"],
        _described(plans[0], by_path["tflite_tables"], plain),
        _saved_by_bits(found, plans, parts),
    )
    shared = _zero_points(plans[0], None if plain is None else len(plain[0]))
    known = sum(one.base for one in bytes_of.values())
    known += totals(shared, dict.fromkeys((part.name for part in parts), 0)).get("tflite_bytes", 0.0)
    whole = FILE + TENSOR * len(graph.body.inputs)
    bytes_of["file"] = Sum.of(whole if plain is None else len(plain[0]) - known)
    figures = {"macs": by_path["macs"], "params": by_path["params"], "tflite_bytes": bytes_of}
    return (*_tables(figures), *shared, *_memory_tables(found, plans))


def _described(plan: ByPath, estimated: Mapping[str, Sum], plain) -> dict[str, Sum]:
    """What the tables of the file take by path: as in the plain file; of what is not in that, by the estimate and what
    such layers take there."""
    if plain is None:
        return dict(estimated)
    counted = plan.counted
    measured: dict[str, float] = dict.fromkeys(counted.calls, 0.0)
    for op, size in bytes_by_operator(*plain):
        path = next((path for layer in op.layers if (path := counted.path_of(layer))), "")
        if path:
            measured[path] += size
    base = {path: alone(counted, "tflite_tables", path).base for path in counted.calls}
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for path in measured:
        for kind in (type(counted.calls[path][0].op).__name__, ""):
            sums[kind][0] += measured[path]
            sums[kind][1] += base[path]
    found = {}
    for path, value in estimated.items():
        change = next((change for _, change in plan.changed(path) if path in change.counted.calls), None)
        op = (counted if change is None else change.counted).calls[path][0].op
        ours, theirs = next((one for one in (sums.get(type(op).__name__), sums[""]) if one and all(one)), (1.0, 1.0))
        share = float(np.clip(ours / theirs, _LEAST, _MOST))
        known = plan.gate(path) * (measured.get(path, 0.0) - share * base.get(path, 0.0))
        found[path] = value * share + known
    return found


def _by_path(variants: Sequence[Variant], values: Sequence[Mapping[str, Sum]]) -> dict[str, Sum]:
    """By path, over all positions."""
    paths = dict.fromkeys(itertools.chain(*values))
    return {path: over_variants(variants, [own.get(path, Sum.of(0)) for own in values]) for path in paths}


def _added(*several: Mapping[str, Sum]) -> dict[str, Sum]:
    paths = dict.fromkeys(itertools.chain(*several))
    return {path: total(one[path] for one in several if path in one) for path in paths}


def _saved_by_bits(variants: Sequence[Variant], plans: Sequence[ByPath], parts: Sequence[Part]) -> dict[str, Sum]:
    """By path, what fewer bits of its kernels change; negative."""
    found = {}
    for part in sorted_out(parts)[1]:
        shares = [0.0]
        for one in part.alternatives[1:]:
            bits = PRECISIONS[PRECISIONS[one.settings["precision"]].stored_as].weight_bits or _INT8
            shares.append((bits - _INT8) / 8)
        for path in part.layers:
            kernels = over_variants(variants, [plan.figure("kernels", path) for plan in plans])
            found[path] = Sum.by(part.name, shares) * kernels
    return found


def _zero_points(plan: ByPath, plain_bytes: int | None) -> list[SharedCost]:
    """Kernels of as many channels share a vector of them."""
    every = list(_widths(plan))
    base = {width.base for width, there in every if there.base}
    needs: dict[float, dict[str, Need]] = defaultdict(dict)
    if plain_bytes is not None and ZERO_POINT * sum(width.base for width, _ in every) <= _SMALL * plain_bytes:
        return [_zeros(width, [_ALWAYS]) for width in sorted(base)]
    for width, there in every:
        parts = tuple(sorted({*width.parts, *there.parts}))
        shape = [_size(part, width, there) for part in parts]
        if math.prod(shape) > _COMBINATIONS:
            needs[width.base][""] = _ALWAYS
            continue
        spread = Sum.joint(parts, np.zeros(shape))
        wide, needed = (np.broadcast_to((own + spread).together(), shape) for own in (width, there))
        for value in np.unique(wide[needed > 0]).tolist():
            ((own, where),) = Sum.joint(parts, (wide == value) & (needed > 0)).reduced().terms.items()
            needs[value][str((own, where.tolist()))] = own, where > 0
    return [_zeros(width, _not_implied(list(own.values()))) for width, own in sorted(needs.items())]


def _widths(plan: ByPath) -> Iterator[tuple[Sum, Sum]]:
    """Of each kernel its output channels, and 1 where it is in the file."""
    for path in plan.paths:
        gate = plan.gate(path)
        stays = Sum.of(1)
        for where, change in plan.changed(path):
            stays -= where
            for width in change.counted.widths(path):
                yield width.reduced(), (where * gate).reduced()
        for width in plan.counted.widths(path) if path in plan.counted.calls else ():
            yield width.reduced(), (stays * gate).reduced()


def _zeros(width: float, needs: Sequence[Need]) -> SharedCost:
    return SharedCost(f"zero points of {width:.0f} channels", {"tflite_bytes": ZERO_POINT * width}, needs)


def _not_implied(needs: Sequence[Need]) -> list[Need]:
    """Those that no other one, of fewer parts, makes certain."""
    return [
        (parts, where) for parts, where in needs
        if not any(
            set(own) < set(parts) and not (where & ~along(own, wider, parts)).any() for own, wider in needs
        )
    ]  # fmt: skip


def _size(part: str, *sums: Sum) -> int:
    for one in sums:
        for parts, values in one.terms.items():
            if part in parts:
                return values.shape[parts.index(part)]
    return 1


def _tables(figures: Mapping[str, Mapping[str, Sum]]) -> Iterable[CostTable]:
    """Of each path a table for each set of parts that it depends on."""
    for path in dict.fromkeys(itertools.chain(*figures.values())):
        by_parts: dict[tuple[str, ...], dict[str, np.ndarray]] = defaultdict(dict)
        for name, values in figures.items():
            if path in values:
                for parts, array in values[path].reduced().terms.items():
                    by_parts[parts][name] = array
        for parts, own in by_parts.items():
            yield CostTable(path, parts, own)


def _memory_tables(variants: Sequence[Variant], plans: Sequence[ByPath]) -> Iterable[CostTable]:
    by_parts: dict[tuple[str, ...], dict[str, np.ndarray]] = defaultdict(dict)
    for number, (variant, plan) in enumerate(zip(variants, plans, strict=True)):
        for t, live in enumerate(_moments(variant.counted, plan)):
            for parts, array in (variant.where * live).reduced().terms.items():
                by_parts[parts][f"{MEMORY}{number}.{t}"] = array
    for parts, own in by_parts.items():
        yield CostTable("activations", parts, own)


def _moments(counted: Counted, plan: ByPath) -> list[Sum]:
    """Live bytes during each call, one byte an element."""
    calls, memory = counted.graph.calls, counted.costs.memory
    live: list[list[Sum]] = [[Sum.of(value)] for value in memory.inside]
    for born, dies, factor, labels in memory.storages():
        # What a dropped block makes is not there, but for its result, which its shortcut is from then on.
        size = counted.counts.product(factor, labels) * plan.gate(calls[born].path, calls[dies].path)
        for t in range(born, dies + 1):
            live[t].append(size * plan.gate(calls[born].path, calls[t].path))
    for t, call in enumerate(calls):
        live[t] += [where * _within(counted, call, change) for where, change in plan.changed(call.path)]
    return [total(own).reduced() for own in live]


def _within(counted: Counted, call: Call, change: Change) -> Sum:
    """What the steps that a layer was replaced by need at their worst moment beyond its input and output."""
    steps = [path for path in change.made if change.home.get(path, path) == call.path]
    if len(steps) < 2:
        return Sum.of(0)
    own = change.counted
    between = [own.elements(own.calls[path][0].outputs[0]) for path in steps[:-1]]
    read, made = (counted.elements(tensor) for tensor in (call.input, call.outputs[0]))
    later = any(
        tensor.key == call.input.key for other in counted.graph.calls if other is not call for tensor in other.inputs
    )
    stays = read if later else Sum.of(0)
    moments = [read + between[0], *(stays + a + b for a, b in itertools.pairwise(between)), stays + between[-1] + made]
    parts = tuple(sorted({part for one in (*moments, read, made) for part in one.parts}))
    shape = [_size(part, *moments, read, made) for part in parts]
    zero = Sum.joint(parts, np.zeros(shape))
    most = np.max([np.broadcast_to((one + zero).together(), shape) for one in moments], axis=0)
    return Sum.joint(parts, most) - read - made
