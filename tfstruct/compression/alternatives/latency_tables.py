"""`latency_tables`: what each operator of the file takes, by the alternatives that its widths and positions depend on.

Operators with a kernel are timed at some of the widths that they may have, all others in proportion to the elements
that they make, or to the work of the layer that they are a part of.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from tfstruct.compression.alternatives.alternative import Part
from tfstruct.compression.alternatives.by_path import ByPath
from tfstruct.compression.alternatives.cost_table import CostTable
from tfstruct.compression.alternatives.kernel_calls import moved, operator_of_call
from tfstruct.compression.alternatives.operator_times import Times, lacking
from tfstruct.compression.alternatives.sums import Sum, total
from tfstruct.compression.alternatives.variants import Counted, Variant, over_variants, sorted_out
from tfstruct.convert import cutout, flatbuffer
from tfstruct.convert.kernel_operator import KernelOperator, kernel_operator
from tfstruct.convert.latency import shapes_of
from tfstruct.graph import Call
from tfstruct.graph.operation_traits import traits_of as layer_traits
from tfstruct.precisions import PRECISIONS
from tfstruct.tflite_operators import traits_of

NAME = "latency_us"
_LEAST = 0.05  # microseconds that any operator takes
_OTHERS = "the rest of the file"


def latency_tables(
    variants: Sequence[Variant],
    parts: Sequence[Part],
    plain: tuple[bytes, Mapping[str, tuple[str, ...]]],
    times: Times,
    plain_us: float | None = None,
) -> tuple[CostTable, ...]:
    """Tables of `latency_us`.

    Forms whose operators a device's table lacks count as taking as long as the whole plain file, so that no limit below
    that allows them.

    Args:
        variants: from `variants_of`.
        parts: what may be decided.
        plain: the int8 file of the model as it is, and tensor -> Keras layers, as `convert.draft` gives them.
        times: of operators.
        plain_us: what the plain file takes as a whole, which the sum over its operators is brought into line with.

    Returns:
        The tables; one may depend on up to five parts.
    """
    plans = [ByPath(variant, parts) for variant in variants]
    timed = _Timed(variants, plans, parts, times)
    found = timed.of_file(*plain)
    times.save()
    if plain_us is not None:
        found = timed.in_line(found, plain_us)
    return tuple(
        CostTable(path, own, {NAME: array}) for path, one in found.items() for own, array in one.reduced().terms.items()
    )


class _Timed:
    def __init__(self, variants: Sequence[Variant], plans: Sequence[ByPath], parts: Sequence[Part], times: Times):
        self.variants, self.plans, self.times = variants, plans, times
        self.bits: dict[str, tuple[Sum, str]] = {}  # path -> 1 where its weights have fewer bits, and what they are
        for part in sorted_out(parts)[1]:
            stored = PRECISIONS[part.alternatives[-1].settings["precision"]].stored_as
            here = Sum.where(part.name, len(part.alternatives), range(1, len(part.alternatives)))
            self.bits |= dict.fromkeys(part.layers, (here, stored))
        self.whole = Sum.of(0)  # what the plain file takes by a device's table
        self.operators: dict[str, int] = defaultdict(int)  # path -> how many of the plain file's are its

    def of_file(self, content: bytes, layers: Mapping[str, tuple[str, ...]]) -> dict[str, Sum]:
        """Microseconds by path."""
        model, first = flatbuffer.read(content), self.variants[0].counted
        self.whole = Sum.of(self.times.of_file(content, layers))
        found: dict[str, list[Sum]] = defaultdict(list)
        for op in flatbuffer.operators(model, layers):
            path = _path_of(op, first)
            self.operators[path] += 1
            operator = kernel_operator(model, op)
            call = first.calls[path][0] if path else None
            if operator is not None and call is not None and _fits(operator, call, first):
                found[path].append(self._over_variants(path, operator))
            else:
                alone = self._alone(model, op, operator)
                found[path or _OTHERS].append(self._in_proportion(path, op, alone) if path else Sum.of(alone))
        for path in self.plans[0].paths:
            if path not in first.calls:
                found[path].append(self._over_variants(path, None))
        return {path: total(own) for path, own in found.items()}

    def in_line(self, found: Mapping[str, Sum], plain_us: float) -> dict[str, Sum]:
        """The sum over the operators brought into line with what the whole file takes: what it takes longer is shared
        out by operators, as it is spent between them; what it takes less, by their times."""
        longer = plain_us - sum(one.base for one in found.values())
        if longer <= 0:
            return {path: one * (plain_us / (plain_us - longer)) for path, one in found.items()}
        each, plan, made = longer / sum(self.operators.values()), self.plans[0], dict(found)
        for path in plan.paths:
            count = Sum.of(self.operators.get(path, 0))
            if path not in self.variants[0].counted.calls:
                count += total(where for where, _ in plan.changed(path))
            made[path] = made.get(path, Sum.of(0)) + count * plan.gate(path) * each
        made[_OTHERS] = made.get(_OTHERS, Sum.of(0)) + Sum.of(self.operators.get("", 0) * each)
        return made

    def _over_variants(self, path: str, operator: KernelOperator | None) -> Sum:
        """An operator of a kernel, or of a path that only alternatives bring in."""
        values: list[Sum] = []
        for variant, plan in zip(self.variants, self.plans, strict=True):
            base = Sum.of(0)
            if operator is not None and path in variant.counted.calls:
                call = variant.counted.calls[path][0]
                here = operator if not values else moved(operator, self.variants[0].counted.calls[path][0], call)
                base = self._kernel(here, call, variant.counted, path)
            changed = [base]
            for where, change in plan.changed(path):
                own = change.counted.calls[path]
                other = operator_of_call(own[0])
                if other is not None and self.times.knows(other):
                    changed.append(where * (self._kernel(other, own[0], change.counted, path) - base))
                elif other is not None:
                    changed.append(where * self.whole)
            values.append(total(changed) * plan.gate(path))
        return over_variants(self.variants, values)

    def _kernel(self, operator: KernelOperator, call: Call, counted: Counted, path: str) -> Sum:
        found = self._at_widths(operator, call, counted)
        here = self.bits.get(path)
        if here is not None and here[1] in traits_of(operator.name).weights and operator.weights != here[1]:
            fewer = dataclasses.replace(operator, weights=here[1])
            found += here[0] * (self._at_widths(fewer, call, counted) - found)
        return found

    def _at_widths(self, operator: KernelOperator, call: Call, counted: Counted) -> Sum:
        """Microseconds by the alternatives that the widths depend on."""
        read, made = (_width(counted, tensor) for tensor in (call.input, call.outputs[0]))
        ins, outs = (np.maximum(np.round(one.together()), 1).astype(int) for one in (read, made))
        if len(read.parts) > 1 or len(made.parts) > 1:
            return self._bilinear(operator, read, made, ins, outs)
        widths, heights = sorted(set(ins.ravel().tolist())), sorted(set(outs.ravel().tolist()))
        grid = self._grid(operator, widths, heights)
        rows, columns = np.searchsorted(widths, ins.ravel()), np.searchsorted(heights, outs.ravel())
        if read.parts == made.parts:
            return Sum.joint(read.parts, grid[rows, columns].reshape(ins.shape))
        return Sum.joint((*read.parts, *made.parts), grid[np.ix_(rows, columns)].reshape((*ins.shape, *outs.shape)))

    def _bilinear(self, operator: KernelOperator, read: Sum, made: Sum, ins, outs) -> Sum:
        """Of widths that several parts have a share in: between the least and the largest, linearly in both."""
        (a0, a1), (b0, b1) = ((int(x.min()), int(x.max())) for x in (ins, outs))
        corners = self._grid(operator, sorted({a0, a1}), sorted({b0, b1}))
        low, high = corners[:, 0], corners[:, -1]
        by_read = (read - Sum.of(a0)) * (1 / max(a1 - a0, 1))
        by_made = (made - Sum.of(b0)) * (1 / max(b1 - b0, 1))
        both = by_read * by_made * float(high[-1] - high[0] - low[-1] + low[0])
        return Sum.of(low[0]) + by_read * float(low[-1] - low[0]) + by_made * float(high[0] - low[0]) + both

    def _grid(self, operator: KernelOperator, inputs: Sequence[int], outputs: Sequence[int]) -> np.ndarray:
        return np.maximum(self.times.grid(operator, inputs, outputs) - self.times.overhead, _LEAST)

    def _alone(self, model, op: flatbuffer.Operator, operator: KernelOperator | None) -> float:
        """Microseconds of an operator as it is in the file."""
        if operator is not None:
            taken = self.times.of(operator)
        else:
            alone = cutout.cut(model, op.subgraph, op.index)
            known = self.times.of_other(alone, op.name, op.dtype, shapes_of(model, op))
            if known is None:
                raise lacking(op.name)
            taken = known
        return max(taken - self.times.overhead, _LEAST)

    def _in_proportion(self, path: str, op: flatbuffer.Operator, alone: float) -> Sum:
        """As the elements that its layer makes, or as its work where that is what the operator has a share in."""
        values: list[Sum] = []
        for variant, plan in zip(self.variants, self.plans, strict=True):
            counted = variant.counted
            size = counted.figure("macs", path) if traits_of(op.name).contracts else Sum.of(0)
            if not size.base > 0 and path in counted.calls:
                size = counted.elements(counted.calls[path][0].outputs[0], unknown=1.0)
            if not values:
                unit = size.base
            values.append(size * (alone / unit) * plan.gate(path) if unit > 0 else plan.gate(path) * alone)
        return over_variants(self.variants, values)


def _path_of(op: flatbuffer.Operator, counted: Counted) -> str:
    """The path of the call that an operator belongs to, of its kernel if it has one; empty if none is known."""
    known = [path for layer in op.layers if (path := counted.path_of(layer))]
    kernels = [path for path in known if op.weights and counted.figure("kernels", path).base > 0]
    return next(iter([*kernels, *known]), "")


def _fits(operator: KernelOperator, call: Call, counted: Counted) -> bool:
    """Whether the channels of the operator are those of the call."""
    if not layer_traits(call.op).one_kernel or len(counted.calls[call.path]) > 1:
        return False
    return (_width(counted, call.input).base, _width(counted, call.outputs[0]).base) == (
        operator.inputs, operator.outputs,
    )  # fmt: skip


def _width(counted: Counted, tensor) -> Sum:
    """Channels of a tensor."""
    labels = tensor.axes[-1]
    return Sum.of(tensor.shape[-1] or 0) if labels is None else counted.counts.of(labels)
