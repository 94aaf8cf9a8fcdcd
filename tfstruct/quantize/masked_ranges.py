"""The ranges of a twin with masked values before a softmax: masked values are placed just below the others.

With -1e9 in it a range would leave one integer to all that is not masked. As the file's masks are made finite
(`tfstruct.convert.masks`), so are these ranges, by the same rule: `tfstruct.quantize.masks`.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from tfstruct.quantize.mask_places import JOINS, MOST_STEPS, SUMS, MaskPlaces, Node, Operand
from tfstruct.quantize.masked_range import LARGEST, BeforeSoftmax, MaskedRange
from tfstruct.quantize.masks import LEAST_ELSEWHERE, added_mask, is_mask, limits, mask_depth, masked_low
from tfstruct.quantize.ranges import Range
from tfstruct.quantize.rounding_points import RoundingPoint, RoundingPoints

Depth = tuple[tf.Tensor | None, bool]


@dataclasses.dataclass(frozen=True)
class Ends:
    low: tf.Tensor
    high: tf.Tensor
    masked: tf.Tensor | bool = False

    @property
    def span(self):
        return tf.maximum(self.high, 0.0) - tf.minimum(self.low, 0.0)


def _kept(method):
    """Decorator: computes a number once per evaluation, as chains of masks ask for the same ones again and again."""

    @functools.wraps(method)
    def kept(self, key, *args):
        name = method.__name__, key.group if isinstance(key, Node) else key
        if self._still is not None and name in self._still:
            return self._still[name]
        if self._known is None:
            self._known = {}
            try:
                return method(self, key, *args)
            finally:
                self._known = None
        if name not in self._known:
            self._known[name] = method(self, key, *args)
        return self._known[name]

    return kept


class MaskedRanges:
    """The ranges of a model whose values may be masked.

    Attributes:
        before_softmax: range inside a softmax layer that masks its input -> how it follows from the input's.
    """

    def __init__(self, rounding_points: RoundingPoints, bits_of: Callable[[RoundingPoint], int | None]):
        self._rounding_points, self._bits_of = rounding_points, bits_of
        self._groups = rounding_points.groups
        self.places = MaskPlaces(rounding_points)
        self._bounds: Mapping[str, Range] = {}
        self.before_softmax: dict[str, BeforeSoftmax] = {}
        self._within: dict[str, Callable[[], tuple]] = {}  # what only a softmax reads that masks it
        self._known: dict | None = None  # what an evaluation has found so far
        self._still: dict | None = None  # what does not change during a pass

    def attach(self, bounds: dict[str, Range]) -> None:
        """Connects the ranges with each other; those inside softmax layers have no state and go."""
        self._bounds = bounds
        for group, bound in bounds.items():
            if isinstance(bound, MaskedRange):
                bound.ends_of = lambda group=group: self._used(group)
        for key, point in self._rounding_points.masked_softmax.items():
            (source, *_) = self._rounding_points.reads[key] or (None,)
            if source in bounds:
                depth = mask_depth(self.places.softmax[source], self._bits_of(point) or 8)

                ends_of = functools.partial(self._masked_within, source, depth)

                if self.places.is_read_once(source):
                    self._within[source] = ends_of
                self.before_softmax[point.group] = BeforeSoftmax(bounds[source], ends_of)
                del bounds[point.group]

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Context manager: no range is updated; all numbers are computed once, at the beginning."""
        self._known = {}
        try:
            for group, bound in self._bounds.items():
                if isinstance(bound, MaskedRange):
                    self._used(group)
            for key, (place, value) in self._rounding_points.constants.items():
                if value is not None:
                    self._finite((self._rounding_points.writes.get(key), place), value)
            self._still, self._known = self._known, None
            yield
        finally:
            self._still = self._known = None

    def constants(self, op) -> list[Callable | None]:
        """For each operand of a sum or product with a constant: None, or what returns the constant, with masks among
        them made finite, or None where it is an argument of the call; see `RoundingPoints.constants`."""
        if id(op) not in self._rounding_points.constants:
            return []
        (place, value), group = self._rounding_points.constants[id(op)], self._rounding_points.writes.get(id(op))
        found: list[Callable | None] = [None, None]
        found[place] = (lambda: None) if value is None else functools.partial(self._finite, (group, place), value)
        return found

    @_kept
    def _finite(self, operand: tuple[str | None, int], value: np.ndarray):
        """The finite constant operand of a group, at its place."""
        group, place = operand
        value = tf.constant(np.clip(value, -LARGEST, LARGEST), tf.float32)
        if group is None or group not in self.places.nodes or not isinstance(self._bounds.get(group), MaskedRange):
            return value
        node = self.places.nodes[group]
        ends = [self._operand(one) for one in node.operands]
        if node.kind == "multiply":
            least = tf.reduce_min([0.0, *(low for low, _ in self._targets(group))])
            most = tf.reduce_max([0.0, *(high for _, high in self._targets(group))])
            reach = self._reach(Operand(group), self._state(group))
            gain = tf.where(least < 0.0, least / tf.minimum(reach.low, -1e-9), 1.0)
            return value * tf.where(most > 0.0, most / tf.maximum(reach.high, 1e-9), gain)
        depth, _ = self._depth(group)
        for flag, where, v, high in self._sides(node, ends):
            if where == place and node.kind in SUMS:
                sign = -1.0 if node.kind == "subtract" and place == 1 else 1.0
                limit = tf.reduce_max(limits(ends[1 - place].span, depth))
                value = tf.where(flag & (sign * value <= -limit), sign * added_mask(v, high), value)
        sign = -1.0 if node.kind == "subtract" and place == 1 else 1.0
        for least, most in self._targets(group) if node.kind in SUMS else ():
            value = tf.where(least < 0.0, sign * tf.maximum(sign * value, least), value)
            value = tf.where(most > 0.0, sign * tf.minimum(sign * value, most), value)
        return value

    def _bits(self, group: str) -> int:
        return self._bits_of(self._groups[group]) or 8

    @_kept
    def _used(self, group: str) -> tuple:
        """(low, high) that values of a group are rounded with."""
        ends = self._state(group)
        low, high = ends.low, ends.high
        if group in self.places.chosen:
            node = self.places.chosen[group]
            made = self._state(node.group)
            return _where(made.masked, made.low, low), _where(made.masked, made.high, high)
        if group in self._within:
            return self._within[group]()
        if not self.places.may_mask.get(group, True):
            return low, high
        for least, most in self._targets(group):
            low = tf.where(least < 0.0, least, low)
            high = tf.where(least < 0.0, tf.clip_by_value(high, 0.0, -least), high)
            low = tf.where(most > 0.0, tf.clip_by_value(low, -most, 0.0), low)
            high = tf.where(most > 0.0, most, high)
        return low, high

    def _masked_within(self, source: str, depth: float) -> tuple:
        """(low, high) inside a softmax that masks its input."""
        ends = self._state(source)
        low = tf.minimum(ends.low, 0.0)
        return _where(ends.masked, low, masked_low(low, ends.high, depth)), tf.maximum(ends.high, 0.0)

    def _raw(self, group: str) -> Ends:
        fixed = self._groups[group].fixed
        if fixed is not None:
            return Ends(*map(tf.constant, fixed))
        bound = self._bounds[group]
        return Ends(bound.low.value, bound.high.value)

    @_kept
    def _state(self, group: str) -> Ends:
        """The ends of a tensor's values, with its own masks made finite."""
        bound = self._bounds.get(group)
        raw = self._raw(group)
        if not isinstance(bound, MaskedRange) or not bound.joins:
            return raw
        if bound.beyond is not None:
            depth, _ = self._depth(group)
            beyond = bound.beyond.value > 0
            low = tf.where(beyond, masked_low(raw.low, raw.high, depth), raw.low)
            return Ends(low, raw.high, beyond)
        node = self.places.nodes[group]
        ends = [self._operand(one) for one in node.operands]
        if node.kind in JOINS:
            return self._join(node, ends, raw)
        return self._follow(node, ends, raw)

    def _operand(self, operand: Operand) -> Ends:
        if operand.constant is not None:
            return Ends(*(tf.constant(max(min(v, LARGEST), -LARGEST), tf.float32) for v in operand.constant))
        return self._state(operand.group)

    def _join(self, node: Node, ends: list[Ends], raw: Ends) -> Ends:
        a, b = ends
        low, high, masked = raw.low, raw.high, False
        if node.kind == "select":
            inherits = _or(a.masked, b.masked)
            low = _where(inherits, tf.minimum(a.low, b.low), low)
            high = _where(inherits, tf.maximum(a.high, b.high), high)
            masked = _or(masked, inherits)
        else:
            for inherited, other, sign in ((a, b, -1.0 if node.kind == "subtract" else 1.0), (b, a, 1.0)):
                if node.kind == "subtract" and inherited is b:
                    continue
                only = _and(inherited.masked, _not(other.masked))
                more = tf.maximum(other.high if sign > 0 else -other.low, 0.0)
                low = _where(only, tf.minimum(inherited.low + more, 0.0), low)
                high = _where(only, tf.maximum(inherited.high + more, 0.0), high)
                masked = _or(masked, only)
            if node.kind == "subtract" and node.operands[0].group == node.operands[1].group:  # x - max(x)
                low = _where(a.masked, a.low - a.high, low)
                masked = _or(masked, a.masked)
        for flag, _, v, top in reversed(self._sides(node, ends)):
            low, high, masked = tf.where(flag, v, low), tf.where(flag, top, high), _or(masked, flag)
        return Ends(low, high, masked)

    @_kept
    def _sides(self, node: Node, ends: list[Ends]) -> list[tuple]:
        """(whether this operand masks, its place, v, high), in the order in which they are tried."""
        depth, _ = self._depth(node.group)
        if node.kind not in JOINS:
            return []
        found, taken = [], False
        for place in (0, 1):
            mask, x = node.operands[place], ends[1 - place]
            far = self._reach(mask, ends[place])
            if node.kind == "subtract":
                (far,), x = ([_negated(far)], x) if place == 1 else ([far], _negated(x))
            if not mask.may_mask or (depth is None and mask.group is not None and mask.group not in self.places.nodes):
                continue
            low, high = tf.minimum(x.low, 0.0), tf.maximum(x.high, 0.0)
            flag = is_mask(far.low, far.high, limits(x.span, depth))
            v = _where(x.masked, low, masked_low(low, high, depth))
            found.append((_and(flag, _not(taken)), place, v, high))
            taken = _or(taken, flag)
        return found

    def _follow(self, node: Node, ends: list[Ends], raw: Ends) -> Ends:
        low, high, masked = raw.low, raw.high, False
        for place in (0, 1):
            inherited, other = ends[place], node.operands[1 - place]
            if node.kind == "maximum":
                low, high = _where(inherited.masked, inherited.low, low), _where(inherited.masked, inherited.high, high)
            else:
                factor = _factor(node.kind, other) if place == 0 or node.kind == "multiply" else None
                if factor is None:
                    continue
                low = _where(inherited.masked, inherited.low * factor, low)
                high = _where(inherited.masked, inherited.high * factor, high)
            masked = _or(masked, inherited.masked)
        return Ends(low, high, masked)

    def _reach(self, operand: Operand, ends: Ends) -> Ends:
        """The range that a product with a constant could have whose mask has not occurred in the data yet."""
        node = None if operand.group is None else self.places.nodes.get(operand.group)
        if node is None or node.kind != "multiply":
            return ends
        constants = [o.constant for o in node.operands if o.constant is not None]
        if not constants:
            return ends
        others = [o for o in node.operands if o.constant is None]
        if not others:
            return ends
        (other,) = others
        seen = self._state(other.group)
        seen_high = tf.where((seen.low == 0.0) & (seen.high == 0.0), 1.0, seen.high)
        products = [tf.clip_by_value(e * c, -LARGEST, LARGEST) for e in (seen.low, seen_high) for c in constants[0]]
        return Ends(tf.reduce_min([ends.low, *products]), tf.reduce_max([ends.high, *products]), ends.masked)

    @_kept
    def _depth(self, group: str, steps: int = 0) -> Depth:
        """(how far below the others masked values of a tensor have to be, whether a softmax reads it)."""
        best = mask_depth(self.places.softmax[group], self._bits(group)) if group in self.places.softmax else None
        for node in self.places.readers.get(group, []) if steps < MOST_STEPS else ():
            found, _ = self._depth(node.group, steps + 1)
            if found is None:
                continue
            others = [o for o in node.operands if o.group != group]
            if node.kind in ("multiply", "divide"):
                factor = _factor(node.kind, others[0]) if others else None
                if factor is None:
                    continue
                found = found / factor
            elif node.kind in SUMS and others:
                other = others[0]
                ends = self._operand(other) if other.group is None else self._raw(other.group)
                found = found + tf.where(ends.span < LEAST_ELSEWHERE, ends.span, 0.0)
            best = found if best is None else tf.maximum(best, found)
        return best, best is not None

    @_kept
    def _targets(self, group: str, steps: int = 0) -> list[tuple]:
        """(low, high) that a mask is set to for each of its readers; 0 for none."""
        found = []
        for node in self.places.readers.get(group, []) if steps < MOST_STEPS else ():
            bound = self._bounds.get(node.group)
            if node.kind not in JOINS or not isinstance(bound, MaskedRange):
                continue
            ends = [self._operand(one) for one in node.operands]
            for flag, place, v, high in self._sides(node, ends):
                if node.operands[place].group != group:
                    continue
                target = v if node.kind == "select" else added_mask(v, high)
                target = tf.where(flag, target, 0.0)
                negative = node.kind == "subtract" and place == 1
                found.append((0.0 * target, -target) if negative else (target, 0.0 * target))
            if self.places.may_mask.get(node.group, True):
                behind = self._targets(node.group, steps + 1)
                flip = node.kind == "subtract" and node.operands[1].group == group
                found += [(-most, -least) for least, most in behind] if flip else behind
        return found


def _factor(kind: str, other: Operand) -> float | None:
    """The positive constant that a product multiplies with, or None."""
    if other.constant is None or other.constant[0] <= 0 or other.constant[0] != other.constant[1]:
        return None
    return other.constant[0] if kind == "multiply" else 1 / other.constant[0]


def _negated(ends: Ends) -> Ends:
    return Ends(-ends.high, -ends.low, ends.masked)


# Flags that are known before anything runs cost no operation.


def _where(flag, yes, no):
    return no if flag is False else tf.where(flag, yes, no)


def _or(a, b):
    return b if a is False else a if b is False else tf.logical_or(a, b)


def _and(a, b):
    return False if a is False or b is False else tf.logical_and(a, b)


def _not(a):
    return True if a is False else tf.logical_not(a)
