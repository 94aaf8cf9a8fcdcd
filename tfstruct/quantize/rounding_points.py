"""Rounding points: the tensors that are integers in the file. Fused operations share one; what only moves values has
the range of its input."""

import dataclasses
from collections import Counter
from collections.abc import Iterator

import keras
import numpy as np

from tfstruct.graph import Call, Channels, Graph, is_training_only
from tfstruct.graph.endings import activation_of
from tfstruct.graph.kinds import kind_of
from tfstruct.graph.opening.parts import values_read
from tfstruct.graph.operation_traits import function_traits, traits_of
from tfstruct.graph.traits import Traits
from tfstruct.keras_internals.graph_nodes import mask_of, operation_of
from tfstruct.quantize.folding import Folding, operands

_ARITHMETIC = ("add", "subtract", "multiply", "divide")
_Place = tuple[int, np.ndarray | None] | None


@dataclasses.dataclass(frozen=True)
class RoundingPoint:
    """A tensor that is integers in the file, which the twin rounds.

    Attributes:
        path: the layer or operation that makes them; an input of the model by its name.
        group: rounding points of one group have one range; the path of the first of them.
        fixed: the range, where the specification sets it.
        observes: whether the values are looked at for the range; not so where they were only moved.
        positive: whether the values are zero or more.
        before: whether it is inside the layer: what enters its own activation (an operator of its own) or the pointwise
            half of a separable convolution, or the product in a batch norm that is no part of another layer.
    """

    path: str
    group: str
    fixed: tuple[float, float] | None = None
    observes: bool = True
    positive: bool = False
    before: bool = False


@dataclasses.dataclass(frozen=True)
class CallRanges:
    """One call of an operation in the file.

    Attributes:
        reads: the ranges of its inputs in order; None where it has others than those.
        writes: the range of what the operator that it is part of makes.
        absorbed: whether it is fused with a ReLU behind it.
    """

    reads: tuple[str, ...] | None
    writes: str | None
    absorbed: bool


def has_one_scale(traits: Traits) -> bool:
    """Whether the values that an operation makes have the range of those that it reads, as integers of the file.

    The operands of a maximum, a minimum or a choice are brought to the scale of its result by an operator of their own.
    """
    return traits.same_scale and traits.joins in ("", "concatenate")


def is_norm(op) -> bool:
    """Whether an operation is a batch norm, and computes as one."""
    return kind_of(op, (keras.layers.BatchNormalization,)) is not None


def _is_masked(call: Call) -> bool:
    """Whether a call gets a mask, by an argument or from a layer before it."""
    given = call.node.arguments
    own = len(given.args) > 1 and given.args[1] is not None
    behind = [mask_of(x) for x in given.keras_tensors]
    return own or given.kwargs.get("mask") is not None or any(mask is not None for mask in behind)


def _fuses(maker: Call, reader: Call) -> bool:
    """Whether the converter makes one operator of two calls, so that no integer stands between them."""
    made = traits_of(maker.op)
    if made.activated and activation_of(maker.op) is not None:
        return False
    if made.folds_batch_norm and is_norm(reader.op):
        return True
    return _is_relu(reader.op) and made.in_file.fuses and not made.same_scale


def _is_relu(op) -> bool:
    return traits_of(op).function in ("relu", "relu6")


def _alike(a: _Place, b: _Place) -> bool:
    """Whether two calls have the same constant at the same place, each made anew or not."""
    if a is None or b is None or a[0] != b[0] or (a[1] is None) != (b[1] is None):
        return False
    return a[1] is None or b[1] is None or np.array_equal(a[1], b[1])


def _same(values: list):
    """What all of them are; None where they differ."""
    return values[0] if len(set(values)) == 1 else None


def _floats(call: Call) -> list[int]:
    """Keys of the tensors of floats that a call reads: not those of indices, lengths and the like."""
    read = {tensor.key for tensor in values_read(call)}
    given = zip(call.node.arguments.keras_tensors, call.inputs, strict=True)
    floats = [channels.key for x, channels in given if "float" in keras.backend.standardize_dtype(x.dtype)]
    return [key for key in floats if key in read]


def _exact(graph: Graph) -> set[int]:
    """Keys of the tensors that integers are made of, back to the inputs or to a kernel: rounded, these were others."""
    makers = {tensor.key: call for call in graph.calls for tensor in call.outputs}
    found: set[int] = set()
    left = [tensor.key for call in graph.calls if traits_of(call.op).reads_integers for tensor in call.inputs]
    while left:
        key = left.pop()
        call = makers.get(key)
        has_weights = call is not None and bool(getattr(call.op, "weights", None))
        if key in found or has_weights:
            continue
        found.add(key)
        if call is not None and not traits_of(call.op).multiplies:
            left += [tensor.key for tensor in values_read(call)]
    return found


class RoundingPoints:
    """The rounding points of a traced model.

    Attributes:
        outputs: id of an operation -> the point of what it makes; None where it is fused into what follows.
        before: id of an operation -> the point inside it; see `RoundingPoint.before`.
        products: likewise, of a batch norm that is no part of another layer: the file has a product and a sum.
        masked_softmax: likewise, of a `Softmax` layer that gets a mask: what it is taken of.
        input_points: one for each input of the model, in their order.
        folds: id of a layer -> the batch norm that becomes part of it, the same one in each of its calls.
        reads: id of an operation -> the ranges of its inputs in order; None where they differ from call to call.
        writes: id of an operation -> the range of what the operator that it is part of makes, likewise.
        folding: what the file computes ahead.
        constants: id of a sum, difference or product -> the place of its constant operand, and its value where that
            lasts; without those that become part of a layer, and those that differ from call to call.
        joined: id of an operation that only moves values -> the point of a constant among them.
        tables: range of what is looked up in a table, and of nothing else -> the call that does it.
        read_by: path of an operation -> the paths of those that read what it makes.
        paths: id of an operation -> its path.
        exact: ranges of floats that integers (ids, classes, bins) are made of: they stay float, as in the file.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        readers: dict[int, list[Call | None]] = {}
        for call in graph.calls:
            for tensor in {t.key: t for t in values_read(call)}.values():
                readers.setdefault(tensor.key, []).append(call)
        for tensor in graph.outputs:
            readers.setdefault(tensor.key, []).append(None)
        self.folding = folding = Folding(graph, readers)
        self.folds: dict[int, keras.layers.BatchNormalization | None] = {}
        self.paths = {id(call.op): call.path for call in graph.calls}
        fused: dict[int, bool] = {}
        self._absorbed: set[int] = set()
        for call in graph.calls:
            after = self._reader(call, readers)
            direct = after is not None and (_fuses(call, after) or (folding.fuses(call) and _is_relu(after.op)))
            joined = id(call.op) in folding.followed or direct
            # A shared layer is quantized as one: only what is fused in each of its calls is.
            fused[id(call.op)] = joined and fused.get(id(call.op), True)
            if direct and after is not None and _is_relu(after.op):
                self._absorbed.add(id(call))
            norm = after.op if joined and after is not None and is_norm(after.op) else None
            if self.folds.setdefault(id(call.op), norm) is not norm:
                self.folds[id(call.op)] = None
        self._ties: dict[str, str] = {}
        names = [x.name for x in graph.model.inputs]  # as in the file
        made = {tensor.key: name for tensor, name in zip(graph.body.inputs, names, strict=True)}
        for call in graph.calls:
            made.update({tensor.key: call.path for tensor in call.outputs})
        self.movers: set[int] = set()
        counts = Counter(id(call.op) for call in graph.calls)
        tied: set[int] = set()
        for call in graph.calls:
            traits, read = traits_of(call.op), [key for key in _floats(call) if key not in folding.constants]
            beside = folding.constant_of(call) if id(call.op) in folding.ahead else None
            if beside is not None:
                self._tie(call.path, made[beside[2].key])
            if not has_one_scale(traits) or not read or folding.is_constant(call):
                continue
            tied.add(id(call.op))
            if not traits.interpolates:
                self.movers.add(id(call.op))
            if len(read) == 1 and counts[id(call.op)] > 1 and traits.moves:
                made.update({tensor.key: made[read[0]] for tensor in call.outputs})  # in each call another one
            else:
                for key in read:
                    self._tie(call.path, made[key])
            after = self._reader(call, readers)
            if after is not None and traits.in_file.fuses and _is_relu(after.op):
                tied.add(id(after.op))
                self._tie(after.path, made[call.outputs[0].key])
        self.outputs: dict[int, RoundingPoint | None] = {}
        self.before: dict[int, RoundingPoint] = {}
        for call in graph.calls:
            key, name = id(call.op), activation_of(call.op)
            self.outputs[key] = None
            if key in folding.ahead or self._ends_here(call, readers):
                continue
            traits = traits_of(call.op)
            own = (traits.contracts or traits.kernel == "einsum") and not fused[key]
            separable = traits.kernel == "separable" and name in (None, "relu", "relu6")
            if separable or (own and name not in (None, "relu", "relu6")):
                self.before[key] = RoundingPoint(call.path, f"{call.path}/pre_activation", before=True)
            if not fused[key]:
                group = self._find(call.path)
                fixed = function_traits(name).in_file.output_range
                self.outputs[key] = RoundingPoint(call.path, group, fixed, key not in tied, name in ("relu", "relu6"))
        folded = {id(norm) for norm in self.folds.values() if norm is not None}
        self.products = {
            id(call.op): RoundingPoint(call.path, f"{call.path}/pre_activation", before=True)
            for call in graph.calls
            if is_norm(call.op) and id(call.op) not in folded
        }
        self.masked_softmax = {
            id(call.op): RoundingPoint(call.path, f"{call.path}/pre_activation", before=True)
            for call in graph.calls
            if isinstance(call.op, keras.layers.Softmax) and _is_masked(call)
        }
        self.input_points = [RoundingPoint(name, self._find(name)) for name in names]
        self.exact = {self._find(made[key]) for key in _exact(graph) if key in made}
        self._calls: dict[int, list[Call]] = {}
        taken: dict[int, tuple[str, ...] | None] = {}
        for call in graph.calls:
            self._calls.setdefault(id(call.op), []).append(call)
            tensors = [x for x in call.inputs if x.key not in folding.constants]
            if id(call.op) in folding.past:
                last, place = folding.past[id(call.op)][-1]
                tensors = [x for x in operands(last)[place : place + 1] if isinstance(x, Channels)]
            taken[id(call)] = tuple(self._find(made[x.key]) for x in tensors)
        written: dict[int, str | None] = {}
        for call in reversed(graph.calls):
            key = id(call.op)
            point, after = self.before.get(key) or self.outputs[key], self._reader(call, readers)
            written[id(call)] = point.group if point else None
            if point is None and after is not None and fused[key]:
                written[id(call)] = written[id(after)]

        self.constants: dict[int, tuple[int, np.ndarray | None]] = {}
        self.joined: dict[int, RoundingPoint] = {}
        called: set[int] = set()
        for call in graph.calls:
            key = id(call.op)
            stays = not folding.is_constant(call) and key not in folding.behind and key not in folding.ahead
            found = folding.constant_of(call) if stays and traits_of(call.op).joins in _ARITHMETIC else None
            operand: _Place = None
            if found:
                place, value, _ = found
                operand = place, value if folding.lasts(call, place) else None
            if operand is not None and key not in called:
                self.constants[key] = operand
            elif key in called and not _alike(self.constants.get(key), operand):
                self.constants.pop(key, None)
            called.add(key)
            beside_constants = any(x.key in folding.constants for x in values_read(call))
            joins = beside_constants and not folding.is_constant(call) and traits_of(call.op).joins
            if joins and key not in self.constants:
                taken.update({id(one): None for one in self._calls[key]})  # more operands than the ranges say
            if key in self.movers and beside_constants:
                self.joined[key] = RoundingPoint(call.path, self._find(call.path))

        self._taken, self._written = taken, written
        self.reads = {key: _same([taken[id(call)] for call in calls]) for key, calls in self._calls.items()}
        self.writes = {key: _same([written[id(call)] for call in calls]) for key, calls in self._calls.items()}

        seen = [point.group for point in self if point.observes]
        self.tables = {
            self._find(call.path): call
            for call in graph.calls
            if folding.looks_up(call) and seen.count(self._find(call.path)) == 1
        }

        self.read_by: dict[str, set[str]] = {}
        for call in graph.calls:
            self.read_by.setdefault(call.path, set()).update(self._read_by(call, readers))

    def calls_of(self, op) -> list[CallRanges]:
        """What the file has at each call of an operation, in order; once where that is the same for all."""
        found = [
            CallRanges(self._taken[id(call)], self._written[id(call)], id(call) in self._absorbed)
            for call in self._calls[id(op)]
        ]
        return found if len(set(found)) > 1 else found[:1]

    def _ends_here(self, call: Call, readers) -> bool:
        """Whether what a call makes is a constant of the operators that read it, which round it."""
        handed_out = any(None in readers.get(tensor.key, []) for tensor in call.outputs)
        return self.folding.is_constant(call) and not handed_out

    def _read_by(self, call: Call, readers) -> Iterator[str]:
        for reader in (r for tensor in call.outputs for r in readers.get(tensor.key, []) if r is not None):
            yield from self._read_by(reader, readers) if is_training_only(reader.op) else [reader.path]

    def _reader(self, call: Call, readers) -> Call | None:
        """The only reader of what a call makes, behind layers that are absent from the file."""
        while True:
            if len(call.outputs) != 1:
                return None
            found = readers.get(call.outputs[0].key, [])
            if len(found) != 1 or found[0] is None:
                return None
            if not is_training_only(found[0].op):
                return found[0]
            call = found[0]

    def _find(self, path: str) -> str:
        while path in self._ties:
            path = self._ties[path]
        return path

    def _tie(self, a: str, b: str) -> None:
        a, b = self._find(a), self._find(b)
        if a != b:
            self._ties[a] = b

    def __iter__(self) -> Iterator[RoundingPoint]:
        yield from (*self.input_points, *filter(None, self.outputs.values()), *self.inner)

    @property
    def inner(self) -> tuple[RoundingPoint, ...]:
        """The rounding points inside operations."""
        return *self.before.values(), *self.products.values(), *self.masked_softmax.values()

    @property
    def groups(self) -> dict[str, RoundingPoint]:
        """Every range by its name, with a point that has it."""
        found: dict[str, RoundingPoint] = {}
        for point in self:
            known = found.get(point.group)
            if known is None or (point.fixed is not None and known.fixed is None):
                found[point.group] = point
        return found


def integer_inputs(graph: Graph) -> set[str]:
    """Inputs of wide integers that are only cast to float: the file quantizes them, and has 8 bits as they are."""
    found = set()
    for x, channels in zip(graph.body.functional.inputs, graph.body.inputs, strict=True):
        readers = [call.op for call in graph.calls if any(c.key == channels.key for c in call.inputs)]
        wide = "int" in x.dtype and not x.dtype.endswith("int8")
        if wide and readers and all(_casts(op) for op in readers):
            found.add(operation_of(x).name)
    return found


def _casts(op) -> bool:
    traits = traits_of(op)
    return (traits.affine and not traits.statistics) or traits.operator == "CAST"
