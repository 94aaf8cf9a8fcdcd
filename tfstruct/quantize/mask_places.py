"""Finds in the graph where values may be masked before a softmax."""

import dataclasses
import math

import keras
import numpy as np

from tfstruct.graph import Call, Channels
from tfstruct.graph.endings import activation_of
from tfstruct.graph.operation_traits import function_traits, traits_of
from tfstruct.quantize.folding import operands
from tfstruct.quantize.masks import LEAST_ELSEWHERE
from tfstruct.quantize.rounding_points import RoundingPoints

_KINDS = ("select", "add", "subtract", "multiply", "divide", "maximum")
SUMS, JOINS = ("add", "subtract"), ("select", "add", "subtract")
# Behind what no rule sees, such values before a softmax are masks.
LEAST_UNSEEN = 1e3
# A softmax that is further away is another layer's.
MOST_STEPS = 12
_UNKNOWN_SIZE = 1024


@dataclasses.dataclass(frozen=True)
class Operand:
    """An operand: the range of a tensor by its name, or a constant by its smallest and largest value."""

    group: str | None = None
    constant: tuple[float, float] | None = None
    may_mask: bool = True


@dataclasses.dataclass(frozen=True)
class Node:
    """An operation on values that may be masked."""

    kind: str
    operands: tuple[Operand, ...]
    group: str


class MaskPlaces:
    """The joins of values with masks, the operations that read them, and those that a mask is made of.

    Attributes:
        nodes: group (a range, by its name) -> the operation on values that may be masked which makes it.
        readers: group -> such operations that read it.
        softmax: group -> over how many of its values a softmax goes.
        may_mask: group -> whether it may be a mask.
        chosen: group that one choice alone reads -> this choice: a SELECT has one scale for all.
    """

    def __init__(self, rounding_points: RoundingPoints):
        self._rounding_points, self._groups = rounding_points, rounding_points.groups
        self.nodes: dict[str, Node] = {}
        self.readers: dict[str, list[Node]] = {}
        self.softmax: dict[str, int] = {}
        self.may_mask: dict[str, bool] = {}
        self.chosen: dict[str, Node] = {}
        self._makers: dict[str, list[Call]] = {}
        self._count: dict[str, int] = {}  # group -> how many calls read it
        self._handed_out = {tensor.key for tensor in rounding_points.graph.outputs}
        for call in rounding_points.graph.calls:
            self._look_at(call)

    def _look_at(self, call: Call) -> None:
        op, reads = call.op, self._rounding_points.reads.get(id(call.op))
        point = self._rounding_points.outputs[id(op)]
        if reads is None:
            return
        silent = id(op) in self._rounding_points.movers or traits_of(op).reads_shape
        for group in () if silent else set(reads):
            self._count[group] = self._count.get(group, 0) + 1
        size = _exponentials(call)
        if size and reads:
            self.softmax[reads[0]] = max(size, self.softmax.get(reads[0], 0))
        if point is None or id(op) in self._rounding_points.movers:
            return
        self._makers.setdefault(point.group, []).append(call)
        if any(tensor.key in self._handed_out for tensor in call.outputs):
            self._count[point.group] = self._count.get(point.group, 0) + 1
        node = self._node(call, reads, point.group)
        self.may_mask[point.group] = self.may_mask.get(point.group, False) or self._makes_masks(call, node, reads)
        if node is not None:
            self.nodes[point.group] = node
            for operand in node.operands:
                if operand.group is not None:
                    self.readers.setdefault(operand.group, []).append(node)

    def _node(self, call: Call, reads, group: str) -> Node | None:
        kind = traits_of(call.op).joins
        if kind not in _KINDS:
            return None
        constants = self._rounding_points.folding.constants
        tensors = [x for x in call.inputs if x.key not in constants]
        given = [x for x in operands(call) if x is not None]
        if kind == "select":
            given = given[1:]
        found = []
        for value in given:
            if isinstance(value, Channels) and value.key not in constants:
                place = next(i for i, x in enumerate(tensors) if x is value)
                found.append(Operand(reads[place], None, self.may_mask.get(reads[place], True)))
            else:
                array = np.asarray(constants[value.key] if isinstance(value, Channels) else value, np.float64)
                found.append(Operand(None, (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)))
        return Node(kind, tuple(found), group) if len(found) == 2 else None

    def _makes_masks(self, call: Call, node: Node | None, reads) -> bool:
        """Whether an operation may compute a mask: not if its values come from weights, or are products of tensors."""
        if node is not None:
            constants = [o.constant for o in node.operands if o.constant is not None]
            large = any(max(-low, high) >= LEAST_UNSEEN for low, high in constants)
            return large or all(o.may_mask for o in node.operands if o.group is not None)
        if traits_of(call.op).reads_shape:
            return True
        if isinstance(call.op, keras.layers.Layer):
            return not call.op.weights and activation_of(call.op) is None
        if traits_of(call.op).multiplies:
            return False
        return all(self.may_mask.get(group, True) for group in reads)

    def ranges(self) -> dict[str, dict]:
        """Groups that need a `MaskedRange`, with its arguments."""
        found: dict[str, dict] = {}
        may: set[str] = set()
        for group, node in self.nodes.items():
            if self._groups[group].fixed is not None or len(self._makers[group]) > 1:
                continue
            reads = self._is_read(group)
            large = any(
                o.constant is not None and max(-o.constant[0], o.constant[1]) >= LEAST_ELSEWHERE for o in node.operands
            )
            joins = node.kind in JOINS and (reads or large) and any(o.may_mask for o in node.operands)
            follows = any(o.group in may for o in node.operands)
            if joins or follows:
                found[group] = {"joins": True}
                may.add(group)
            if joins:
                for mask in self._masks(node):
                    found.setdefault(mask, {"joins": False})["masks"] = True
                self.chosen.update({one: node for one in self._read_once(node)})
        masked = [self._rounding_points.reads[key] for key in self._rounding_points.masked_softmax]
        for group in (*self.chosen, *(reads[0] for reads in masked if reads and self.is_read_once(reads[0]))):
            found.setdefault(group, {"joins": False})
        for group, makers in self._makers.items():
            known = group in self.nodes and len(makers) == 1
            plain = all(_is_plain(call.op) and traits_of(call.op).joins not in _KINDS for call in makers)
            if self._groups[group].fixed is None and not known and not plain and self._is_read(group):
                found[group] = {"joins": True, "unseen": True}
        return found

    def _read_once(self, node: Node) -> list[str]:
        """Tensors that only one choice reads."""
        groups = [o.group for o in node.operands if o.group is not None and node.kind == "select"]
        return [group for group in groups if self.is_read_once(group)]

    def is_read_once(self, group: str) -> bool:
        one = len(self._makers.get(group, ())) == self._count.get(group) == 1
        return one and self._groups[group].fixed is None

    def _masks(self, node: Node, steps: int = 0) -> list[str]:
        """The tensors that may be the mask of a join, and those that they are made of."""
        found = []
        for operand in node.operands:
            group = operand.group
            if group is None or not operand.may_mask or self._groups[group].fixed is not None or steps > MOST_STEPS:
                continue
            found.append(group)
            if group in self.nodes and self.nodes[group].kind in (*JOINS, "multiply"):
                found += self._masks(self.nodes[group], steps + 1)
        return found

    def _is_read(self, group: str, steps: int = 0) -> bool:
        """Whether a softmax reads it, directly or behind operations that leave masks unchanged."""
        if group in self.softmax:
            return True
        return steps < MOST_STEPS and any(self._is_read(n.group, steps + 1) for n in self.readers.get(group, ()))


def _exponentials(call: Call) -> int | None:
    """Number of values over which an operation takes shares of exponentials, or None."""
    name, shape = activation_of(call.op), call.inputs[0].shape if call.inputs else ()
    if traits_of(call.op).activated:
        return None
    if name == "sigmoid":
        return 2
    if not function_traits(name).in_file.exponential:
        return None
    axes = getattr(call.op, "axis", -1)
    sizes = [shape[axis] for axis in (axes if isinstance(axes, (list, tuple)) else [axes])] if shape else []
    return math.prod(size or _UNKNOWN_SIZE for size in sizes)


def _is_plain(op) -> bool:
    """Whether an operation contains no hidden mask: a single operation, or a layer of Keras."""
    if traits_of(op).joins == "add":
        return not isinstance(op, keras.layers.Layer)  # a layer can add more than two
    return not isinstance(op, keras.layers.Layer) or type(op).__module__.startswith("keras.")
