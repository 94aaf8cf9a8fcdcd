"""Ranges wide enough for the kernels of a file: they rescale what they sum up by a factor, which has an upper limit."""

from collections.abc import Mapping

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.recipe import Recipe
from tfstruct.precisions import PRECISIONS
from tfstruct.tflite_operators import traits_of

Range = tuple[float, float]
# XNNPACK refuses factors of 128 or 256, by the operator, and its refusal can end the process; some of TensorFlow Lite's
# own kernels end it beyond 2^19. A result with so many steps in one of what it is made of is noise already.
_LARGEST = 127.0


def bounded(
    content: bytes, ranges: Mapping[str, Range], layers: Mapping[str, tuple[str, ...]], recipe: Recipe
) -> tuple[dict[str, Range], list[str]]:
    """The ranges, those wider that are far too narrow for the operator that makes their tensor.

    A kernel multiplies its sum by u / s, u the unit of the sum (s_x s_w of a kernel w, s_x s_y of a product, the
    largest scale of what is added) and s the scale of the result: a layer whose values are all zero but for a few tiny
    ones, say. Where the factor is above 127, the range becomes wider until it is 127.

    Args:
        content: the float file, with the names of `tensor_names.rename`.
        ranges: (low, high) by tensor.
        layers: tensor -> layers fused into it.

    Returns:
        The ranges and a line on each layer whose range is another now.
    """
    graph = _Graph(content, ranges, recipe)
    lines = []
    for op in graph.main.operators:
        traits = traits_of(flatbuffer.operator_name(graph.model, op))
        if traits.same_scale and not traits.unit:
            graph.move(op, ranges)
            continue
        out = graph.name(op.outputs[0]) if len(op.outputs) else ""
        own = layers.get(out, ())
        if out not in graph.ranges or recipe.precision_of(own) == "float32":
            continue
        low, high = graph.ranges[out]
        least = graph.unit(op, own) / _LARGEST * graph.steps
        if 0 < high - low < least:
            graph.ranges[out] = low * least / (high - low), high * least / (high - low)
            place = ", ".join(own) or out
            lines.append(
                f"{place} has a range {least:.3g} wide, the least for its kernel, in place of {high - low:.3g}"
            )
    return graph.ranges, list(dict.fromkeys(lines))


class _Graph:
    """The main graph of a file with the ranges of its tensors."""

    def __init__(self, content: bytes, ranges: Mapping[str, Range], recipe: Recipe):
        self.model = flatbuffer.read(content)
        self.main = self.model.subgraphs[0]
        self.ranges, self.recipe = dict(ranges), recipe
        self.steps = 2.0 ** (PRECISIONS[recipe.precision].activation_bits or 8) - 1

    def name(self, i: int) -> str:
        return self.main.tensors[i].name.decode()

    def floats(self, op) -> list[int]:
        kind = flatbuffer.schema.TensorType.FLOAT32
        return [int(i) for i in op.inputs if i >= 0 and self.main.tensors[i].type == kind]

    def scale(self, i: int) -> float:
        """Of an activation, or of a constant in its place; 0 where it is unknown."""
        tensor = self.main.tensors[i]
        if flatbuffer.is_constant(self.model, tensor):
            value = flatbuffer.constant(self.model, tensor)
            low, high = value.min(initial=0.0), value.max(initial=0.0)
        else:
            low, high = self.ranges.get(self.name(i), (0.0, 0.0))
        return float(high - low) / self.steps

    def move(self, op, before: Mapping[str, Range]) -> None:
        """What only moves values has a range with those that are wider now."""
        read = map(self.name, self.floats(op))
        wider = [self.ranges[name] for name in read if self.ranges.get(name) != before.get(name)]
        for out in map(self.name, op.outputs) if wider else ():
            ends = [self.ranges.get(out, (0.0, 0.0)), *wider]
            self.ranges[out] = min(low for low, _ in ends), max(high for _, high in ends)

    def unit(self, op, own: tuple[str, ...]) -> float:
        """What one step of the operator's sum stands for; 0 where that is unknown."""
        traits, read = traits_of(flatbuffer.operator_name(self.model, op)), self.floats(op)
        if traits.unit == "kernel" and len(read) > 1:
            assert traits.kernel is not None
            return self.scale(int(op.inputs[traits.data])) * self.kernel_scale(int(op.inputs[traits.kernel]), own)
        if traits.unit == "product" and len(read) > 1:
            return self.scale(read[0]) * self.scale(read[1])
        return max(map(self.scale, read), default=0.0) if traits.unit == "largest" else 0.0

    def kernel_scale(self, i: int, own: tuple[str, ...]) -> float:
        if not flatbuffer.is_constant(self.model, self.main.tensors[i]):
            return self.scale(i)
        top = PRECISIONS[self.recipe.precision_of(own)].levels[1]
        return float(np.abs(flatbuffer.constant(self.model, self.main.tensors[i])).max(initial=0.0)) / top
