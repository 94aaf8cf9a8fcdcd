"""Masks of a file made finite: -1e9, or the least number there is, would take the whole range of integers."""

import copy
from collections.abc import Mapping

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.recipe import Recipe
from tfstruct.quantize.masks import LEAST_ELSEWHERE, added_mask, is_mask, limits, mask_depth, masked_low
from tfstruct.tflite_operators import traits_of

Range = tuple[float, float]
_SUMS, _PRODUCTS, _LIMITS = ("add", "subtract"), ("multiply", "divide"), ("maximum", "minimum")
# An operand of which the result's range is so many times the span is lost in it.
_LOST = 1e4


def bounded(
    content: bytes, ranges: Mapping[str, Range], layers: Mapping[str, tuple[str, ...]], recipe: Recipe
) -> tuple[bytes, dict[str, Range], list[str], list[str]]:
    """The float file with finite masks, and ranges to it.

    Where SELECT, ADD or SUB joins values x in [l, h] with a mask, masked values become v = l - d, d the depth at which
    a softmax gives nothing to them (`mask_depth`), and the range of the result is [v, h]. A mask that is added becomes
    v - h or less: integers end at v, so that masked values are equal there, as in float, where the mask swallows them.
    A MAXIMUM or MINIMUM with a constant beyond the range of what it limits, which would take the range, goes.

    Args:
        content: the float file, with the names of `tensor_names.rename`.
        ranges: (low, high) by tensor; a result that has a finite low end, from training, keeps it.
        layers: tensor -> layers fused into it.

    Returns:
        The file, the ranges, a line on each layer whose mask was changed, and warnings.
    """
    masks = _Masks(content, ranges, layers, recipe)
    masks.run()
    changed = [f"{place} masks with {value:.4g} in place of {before:.3g}" for place, before, value in masks.lines]
    done = flatbuffer.write(masks.model) if masks.changed else content
    return done, masks.ranges, list(dict.fromkeys(changed)), masks.warnings()


class _Masks:
    def __init__(self, content: bytes, ranges, layers, recipe: Recipe):
        self.model = flatbuffer.read(content)
        self.graph = self.model.subgraphs[0]
        self.ranges = dict(ranges)
        self.layers, self.recipe = layers, recipe
        self.bits = recipe.activation_bits
        self.makers = {int(i): op for op in self.graph.operators for i in op.outputs}
        self.readers: dict[int, list] = {}
        for op in self.graph.operators:
            for i in op.inputs:
                self.readers.setdefault(int(i), []).append(op)
        self.masked: set[int] = set()
        self.finite: dict[int, float] = {}  # mask tensor -> its value now
        self.lines: list[tuple[str, float, float]] = []
        self.changed = False
        self.unknown: list[str] = []

    def name(self, i: int) -> str:
        return self.graph.tensors[i].name.decode()

    def kind(self, op) -> str:
        """What an operator does with a mask: it joins it (`"add"`, `"select"`, ...), `"moves"` it, or takes its
        `"exponential"`; empty where it does something else."""
        name = flatbuffer.operator_name(self.model, op)
        traits = traits_of(name)
        if traits.joins or traits.exponential:
            return traits.joins or "exponential"
        return "moves" if traits.moves or name == "REDUCE_MIN" else ""

    def place(self, op) -> str:
        return ", ".join(self.layers.get(self.name(op.outputs[0]), ())) or self.name(op.outputs[0])

    def is_constant(self, i: int) -> bool:
        return flatbuffer.is_constant(self.model, self.graph.tensors[i])

    def is_input(self, i: int) -> bool:
        """Whether a tensor is an input of the model, moved at most: data, but for a softmax."""
        maker = self.makers.get(i)
        if maker is not None and self.kind(maker) == "moves":
            return self.is_input(int(maker.inputs[0]))
        return maker is None and not self.is_constant(i)

    def is_float(self, i: int) -> bool:
        return i >= 0 and self.graph.tensors[i].type == flatbuffer.schema.TensorType.FLOAT32

    def ends(self, i: int) -> Range:
        """(low, high) of a tensor; without a range, which a tensor with infinite values has not, (-inf, 0)."""
        if self.is_constant(i):
            value = flatbuffer.constant(self.model, self.graph.tensors[i])
            return (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)
        return self.ranges.get(self.name(i), (-np.inf, 0.0))

    def reach(self, i: int) -> Range:
        """The same, and where a product with a constant could end that had nothing to mask in the calibration data."""
        low, high = self.ends(i)
        maker = self.makers.get(i)
        inputs = [] if maker is None else [int(j) for j in maker.inputs if self.is_float(int(j))]
        if maker is not None and self.kind(maker) == "moves" and inputs:
            return self.reach(inputs[0])
        if maker is not None and self.kind(maker) == "multiply" and any(self.is_constant(j) for j in inputs):
            products = np.outer(self.ends(inputs[0]), self.ends(inputs[1]))
            return min(low, float(products.min())), max(high, float(products.max()))
        return low, high

    def span(self, i: int) -> float:
        low, high = self.ends(i)
        return max(high, 0.0) - min(low, 0.0)

    def run(self) -> None:
        for op in list(self.graph.operators):
            if len(op.outputs) != 1 or not self.is_float(int(op.outputs[0])):
                continue
            if self.recipe.precision_of(self.layers.get(self.name(op.outputs[0]), ())) == "float32":
                continue
            kind, out = self.kind(op), int(op.outputs[0])
            values = [int(i) for i in (op.inputs[1:3] if kind == "select" else op.inputs) if self.is_float(int(i))]
            if kind in ("select", *_SUMS) and len(values) == 2:
                self.join(op, kind, out, values)
            elif kind in _LIMITS and len(values) == 2 and self.is_idle(kind, values):
                self.skip(op, out, values[0])
            elif kind in ("maximum", *_PRODUCTS) and len(values) == 2:
                self.follow(op, kind, out, values)
            elif kind == "moves" and values and values[0] in self.masked:
                self.ranges[self.name(out)] = self.ends(values[0])
                self.masked.add(out)
            elif kind == "concatenate" and any(i in self.masked for i in values):
                ends = [self.ends(i) for i in values]
                self.ranges[self.name(out)] = min(low for low, _ in ends), max(high for _, high in ends)
                self.masked.add(out)

    def is_idle(self, kind: str, values: list[int]) -> bool:
        """Whether a limit lies beyond the range of what it limits, where integers end anyway."""
        x, limit = values
        if not self.is_constant(limit) or self.name(x) not in self.ranges or x in self.masked:
            return False
        (low, high), ends = self.ends(x), self.ends(limit)
        return ends[0] >= high if kind == "minimum" else ends[1] <= low

    def skip(self, op, out: int, x: int) -> None:
        """Takes an operator out that hands on x, but at the end of the file."""
        if out in map(int, self.graph.outputs) or list(self.graph.tensors[x].shape) != list(
            self.graph.tensors[out].shape
        ):
            return
        self.graph.operators = [other for other in self.graph.operators if other is not op]
        for reader in self.readers.pop(out, []):
            reader.inputs = [x if int(i) == out else int(i) for i in reader.inputs]
            self.readers[x].append(reader)
        self.changed = True

    def join(self, op, kind: str, out: int, values: list[int]) -> None:
        sides = [(values[0], 1.0, values[1]), (values[1], -1.0 if kind == "subtract" else 1.0, values[0])]
        found = next((side for side in sides if self.is_mask(out, *side)), None)
        inherited = [i for i in values if i in self.masked]
        if found is None:
            if inherited:
                self.carry(kind, out, values, inherited)
            return
        mask, sign, x = found
        low, high = self.ends(x)
        if kind == "subtract" and mask == values[0]:
            low, high = -high, -low
        low, high = min(low, 0.0), max(high, 0.0)
        given = self.ranges.get(self.name(out), (-np.inf, 0.0))[0]
        depth, softmax = self.depth(out)
        v = low if x in self.masked else masked_low(low, high, depth)
        shared = given == low and self.is_given(out)  # one range for both, in which there is room for masked values
        if depth is not None and (shared or abs(given - v) <= depth / 2):
            v = given  # as in training
        before = sign * self.reach(mask)[0 if sign > 0 else 1]
        target = v if kind == "select" else added_mask(v, high)
        limit = self.threshold(out, x)
        if (not softmax and self.is_input(mask)) or not self.bring(op, mask, sign * target, sign * limit):
            self.unknown.append(self.place(op))
            return
        self.ranges[self.name(out)] = (v, high)
        self.masked.add(out)
        if kind == "select":
            self.choose_alike(x, (v, high))
        if before < target:
            self.lines.append((self.place(op), before, v))

    def choose_alike(self, x: int, ends: Range) -> None:
        """Gives a value that one SELECT alone reads the range of its result, as a SELECT has one scale for all: rounded
        to its own range first, it would be rounded twice."""
        maker = self.makers.get(x)
        if maker is None or len(self.readers.get(x, ())) != 1 or x in map(int, self.graph.outputs):
            return
        if traits_of(flatbuffer.operator_name(self.model, maker)).output_range is not None:
            return
        if self.kind(maker) == "moves":
            self.choose_alike(int(maker.inputs[0]), ends)
        self.ranges[self.name(x)] = ends

    def is_given(self, i: int) -> bool:
        """Whether a tensor has the range of its layer that the recipe gives."""
        return any(path in self.recipe.ranges for path in self.layers.get(self.name(i), ())[-1:])

    def threshold(self, out: int, x: int) -> float:
        """What a mask on x is below."""
        return -max(limits(self.span(x), self.depth(out)[0]))

    def is_mask(self, out: int, mask: int, sign: float, x: int) -> bool:
        if mask in self.finite:
            return True
        if not self.is_constant(x) and self.name(x) not in self.ranges:
            return False
        low, high = sorted(sign * end for end in self.reach(mask))
        return is_mask(low, high, limits(self.span(x), self.depth(out)[0]))

    def depth(self, i: int, seen: int = 0) -> tuple[float | None, bool]:
        """(how far below the others masked values of a tensor have to be, whether a softmax reads it)."""
        best, softmax = None, False
        for op in self.readers.get(i, []) if seen < 12 else ():
            if not len(op.outputs):  # what writes a state
                continue
            kind, out = self.kind(op), int(op.outputs[0])
            found, more = None, 0.0
            if kind == "exponential":
                # A sigmoid is a softmax over two values, one of which is 0.
                count = 2 if flatbuffer.operator_name(self.model, op) == "LOGISTIC" else self.graph.tensors[i].shape[-1]
                found, softmax = mask_depth(count, self.bits), True
            elif kind in ("moves", "select", *_SUMS, "concatenate", "maximum", *_PRODUCTS):
                found, reached = self.depth(out, seen + 1)
                softmax = softmax or reached
                others = [int(j) for j in op.inputs if int(j) != i and self.is_float(int(j))]
                if found is not None and kind in _PRODUCTS:
                    factor = self.factor(kind, others)
                    found = None if factor is None else found / factor
                elif kind in _SUMS and others and not self.masks(others[0]):
                    more = self.span(others[0])
            if found is not None:
                best = max(best or 0.0, found + more)
        return best, softmax and best is not None

    def masks(self, i: int) -> bool:
        """Whether a tensor is a mask, made finite already or yet to be."""
        return i in self.masked or i in self.finite or self.span(i) >= LEAST_ELSEWHERE

    def factor(self, kind: str, others: list[int]) -> float | None:
        """The positive constant that a product is with."""
        if not others or not self.is_constant(others[0]):
            return None
        low, high = self.ends(others[0])
        return None if low <= 0 or low != high else (low if kind == "multiply" else 1 / low)

    def carry(self, kind: str, out: int, values: list[int], inherited: list[int]) -> None:
        """The range of what is made of masked values and others that are no mask."""
        ends = [self.ends(i) for i in values]
        if kind == "select":
            low, high = min(low for low, _ in ends), max(high for _, high in ends)
        else:
            others = [i for i in values if i not in inherited]
            if not others:
                return
            (other,) = others
            sign = -1.0 if kind == "subtract" and other == values[1] else 1.0
            if kind == "subtract" and other == values[0]:
                return
            if kind == "subtract" and self.is_largest_of(other, inherited[0]):  # x - max(x)
                low, high = self.ends(inherited[0])
                self.ranges[self.name(out)] = (low - high, 0.0)
                self.masked.add(out)
                return
            added = sorted(sign * end for end in self.ends(other))
            low, high = self.ends(inherited[0])
            # Masked values end at the lowest that one of them has, so that all are equal.
            low, high = low + max(added[1], 0.0), high + max(added[1], 0.0)
            # As in training: layers that compute the same mask share one in the file, made for the first of them.
            given, (depth, _) = self.ranges.get(self.name(out), (-np.inf, 0.0))[0], self.depth(out)
            if depth is not None and self.is_given(out) and abs(given - low) <= depth / 2:
                low = given
        self.ranges[self.name(out)] = (min(low, 0.0), max(high, 0.0))
        self.masked.add(out)

    def is_largest_of(self, i: int, source: int) -> bool:
        maker = self.makers.get(i)
        while maker is not None and self.kind(maker) == "moves":
            maker = self.makers.get(int(maker.inputs[0]))
        if maker is None or flatbuffer.operator_name(self.model, maker) != "REDUCE_MAX":
            return False
        return int(maker.inputs[0]) == source

    def follow(self, op, kind: str, out: int, values: list[int]) -> None:
        inherited = [i for i in values if i in self.masked]
        others = [i for i in values if i not in self.masked]
        if len(inherited) != 1 or not others:
            return
        low, high = self.ends(inherited[0])
        if kind == "maximum":
            if self.is_constant(others[0]) and self.ends(others[0])[1] < low:
                self.constant(op, others[0], lambda value: np.full_like(value, low))
        else:
            factor = self.factor(kind, others)
            if factor is None:
                return
            low, high = low * factor, high * factor
        self.ranges[self.name(out)] = (low, high)
        self.masked.add(out)

    def bring(self, op, mask: int, target: float, limit: float) -> bool:
        """Makes the values of a mask beyond `limit` the `target`; False where its origin is not known."""
        sign = -1.0 if target < 0 else 1.0
        before = self.finite.get(mask)
        if before is not None and abs(before) >= abs(target):
            return True
        if before is not None:
            limit = 0.99 * before
        if self.is_constant(mask):
            self.constant(op, mask, lambda value: np.where(sign * value >= sign * limit, target, value))
            return True
        maker = self.makers.get(mask)
        done = maker is None  # an input of the model: who fills it ends at the range
        kind = "" if maker is None else self.kind(maker)
        inputs = [] if maker is None else [int(i) for i in maker.inputs if self.is_float(int(i))]
        low, high = self.reach(mask)
        worst = low if sign < 0 else high
        if kind == "moves":
            done = self.bring(maker, inputs[0], target, limit)
        elif kind == "select":
            far = [i for i in inputs if i in self.finite or self._beyond(i, sign, limit)]
            done = bool(far) and all([self.bring(maker, i, target, limit) for i in far])
        elif kind == "multiply" and np.isfinite(worst) and worst:
            constants = [i for i in inputs if self.is_constant(i)]
            if constants:
                self.constant(maker, constants[0], lambda value: value * (target / worst))
                done = True
        elif kind in _SUMS:
            signs = [1.0, -1.0 if kind == "subtract" else 1.0]
            signed = [(i, s) for i, s in zip(inputs, signs, strict=True) if self._beyond(i, sign * s, s * limit)]
            done = bool(signed) and all([self.bring(maker, i, s * target, s * limit) for i, s in signed])
        if done:
            ends = (target, max(min(high, -target), 0.0)) if sign < 0 else (min(max(low, -target), 0.0), target)
            self.ranges[self.name(mask)] = ends
            self.finite[mask] = target
        return done

    def _beyond(self, i: int, sign: float, limit: float) -> bool:
        low, high = self.reach(i)
        return low <= limit if sign < 0 else high >= limit

    def constant(self, op, index: int, change) -> None:
        """Gives an operator a constant of its own, changed."""
        place = next(n for n, i in enumerate(op.inputs) if int(i) == index)
        value = np.asarray(change(flatbuffer.constant(self.model, self.graph.tensors[index])), np.float32)
        if len(self.readers.get(index, ())) > 1:
            own = copy.copy(self.graph.tensors[index])
            own.name = own.name + f":{self.name(op.outputs[0])}".encode()
            self.graph.tensors.append(own)
            self.readers[index] = [reader for reader in self.readers[index] if reader is not op]
            index = len(self.graph.tensors) - 1
            self.readers[index] = [op]
            op.inputs[place] = index
        flatbuffer.set_constant(self.model, self.graph.tensors[index], value)
        self.changed = True

    def warnings(self) -> list[str]:
        """Lines on what is lost beside values that are far larger."""
        lost = dict.fromkeys(self.unknown)
        for op in self.graph.operators:
            kind = self.kind(op)
            if kind not in ("select", *_SUMS, *_LIMITS, "concatenate") or len(op.outputs) != 1:
                continue
            out = int(op.outputs[0])
            read = [int(i) for i in op.inputs if self.is_float(int(i)) and not self.is_constant(int(i))]
            known = [i for i in read if self.name(i) in self.ranges and self.span(i) > 0]
            if self.is_float(out) and any(self.span(out) >= _LOST * self.span(i) for i in known):
                lost[self.place(op)] = None
        lines = [
            f"{place}: the range of its values is more than 10,000 times that of what it reads, which is lost among "
            "integers. Mask with a value just below the others, or keep the layer in float32 "
            "(Recipe(layers={pattern: 'float32'}), --keep-float)"
            for place in lost
        ]
        for i in self.graph.outputs:
            if int(i) in self.masked:
                low = self.ends(int(i))[0]
                lines.append(f"masked values of the output {self.name(int(i))} are {low:.4g} in the file")
        return lines
