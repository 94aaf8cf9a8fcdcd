"""Preprocessing at the front of a file (Rescaling, Normalization) as part of the input's scale, so that the integers
that go in are those before it: the pixels of a camera, as they are.

A factor and an offset, value = a x + b, change no integer but what it stands for: with a step s and a zero point z of
the value, x = s / a (q - z - b / s). Rounded to a whole zero point, that is exact within half a step.
"""

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.flatbuffer import schema
from tfstruct.samples import Sample
from tfstruct.tflite_operators import traits_of

_PIXELS = (0.0, 255.0)
# Whole numbers from 0 to 255 that never reach it are counts or classes rather than pixels.
_BRIGHT = 100
_TYPES = ("int8", "uint8")
_AFFINE = ("add", "subtract", "multiply", "divide")


@dataclasses.dataclass(frozen=True)
class Front:
    """What an input went through: value = factor * x + offset.

    Attributes:
        pixels: True if x are whole numbers from 0 to 255, which are to be stored as they are.
    """

    factor: float
    offset: float
    pixels: bool

    def scale(self, step: float, zero_point: int, least: int) -> tuple[float, int]:
        """(scale, zero point) of x for those of the value; `least` is the smallest integer of the type."""
        scale, zero = step / self.factor, zero_point + self.offset / step
        if self.pixels and abs(scale - 1) * _PIXELS[1] <= 0.5 and abs(zero - least) <= 0.51:
            return 1.0, least
        return scale, int(np.round(zero))


@dataclasses.dataclass(frozen=True)
class Folded:
    """A float file without the preprocessing that is folded.

    Attributes:
        ranges: by tensor; those of its inputs now stand behind the preprocessing.
        fronts: what was folded, by input.
        changes: a line for every input on what became of its preprocessing.
    """

    content: bytes
    ranges: dict[str, tuple[float, float]]
    fronts: Mapping[str, Front]
    changes: list[str]


def folded(
    content: bytes,
    layers: Mapping[str, tuple[str, ...]],
    ranges: Mapping[str, tuple[float, float]],
    types: Mapping[str, str],
    samples: Collection[Sample],
) -> Folded:
    """Takes factors and offsets that are the same for all values off the front of a float file.

    Args:
        layers: tensor -> layers, for what is said.
        ranges: (low, high) by tensor.
        types: what inputs shall take, by name; those of 8 bits are looked at.
        samples: some of the calibration samples: do they hold pixels?
    """
    if not set(types.values()) & set(_TYPES):
        return Folded(content, dict(ranges), {}, [])
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    found, fronts, changes = dict(ranges), {}, []
    for index in map(int, graph.inputs):
        tensor = graph.tensors[index]
        name = tensor.name.decode()
        if types.get(name) not in _TYPES or tensor.type != schema.TensorType.FLOAT32 or name not in ranges:
            continue
        front, way, why = _front(model, graph, index, _holds_pixels(name, ranges[name], samples))
        named = ", ".join(dict.fromkeys(layer for op in way for layer in _layers_of(graph, op, layers)))
        if way and front.pixels and not -0.51 <= -front.offset / front.factor <= 255.51:
            front, way, why = Front(1.0, 0.0, True), [], f"{named} stays, as 0 lies outside of what it makes"
        if way:
            fronts[name] = front
            low, high = (end * front.factor + front.offset for end in ranges[name])
            found[name] = ranges.get(graph.tensors[way[-1].outputs[0]].name.decode(), (min(low, 0.0), max(high, 0.0)))
            _take_out(graph, index, way)
            changes.append(f"{named} folded into the scale of input {name}, exact within half a step")
        if front.pixels:
            ends = [end * front.factor + front.offset for end in _PIXELS]
            found[name] = (min(*ends, 0.0), max(*ends, 0.0))
        if front.pixels:
            changes.append(f"input {name} takes pixels, 0 to 255, as they are")
        if why:
            changes.append(f"input {name}: {why}")
    return Folded(flatbuffer.write(model) if fronts else content, found, fronts, changes)


def _holds_pixels(name: str, ends: tuple[float, float], samples: Collection[Sample]) -> bool:
    if ends == _PIXELS:  # of an input of 8 bits
        return True
    values = [sample.inputs[name] for sample in samples if name in sample.inputs]
    return bool(values) and all(_are_pixels(v) for v in values) and max(float(v.max()) for v in values) >= _BRIGHT


def _are_pixels(values: np.ndarray) -> bool:
    return bool(values.size and values.min() >= 0 and values.max() <= _PIXELS[1] and (values == np.round(values)).all())


def _front(model, graph, index: int, pixels: bool) -> tuple[Front, list, str]:
    """What an input goes through, the operators that do it, and why the next one is not among them."""
    factor, offset = 1.0, 0.0
    way: list[schema.OperatorT] = []
    outputs = set(map(int, graph.outputs))
    while True:
        readers = [op for op in graph.operators if index in map(int, op.inputs)]
        step = _step(model, graph, readers[0], index) if len(readers) == 1 else None
        if step is None or index in outputs or int(readers[0].outputs[0]) in outputs:
            several = (len(readers) > 1 or index in outputs) and any(_step(model, graph, op, index) for op in readers)
            return Front(factor, offset, pixels), way, "its preprocessing stays, as others read it too" * several
        values = step[1]
        if values.size == 0 or not (values == values.ravel()[0]).all():
            return (
                Front(factor, offset, pixels),
                way,
                "what differs by channel stays an operator",
            )
        a, b = _affine(step[0], float(values.ravel()[0]))
        if a <= 0:
            return Front(factor, offset, pixels), way, "a factor that is not positive stays an operator"
        factor, offset = factor * a, offset * a + b
        way.append(readers[0])
        index = int(readers[0].outputs[0])


def _affine(joins: str, value: float) -> tuple[float, float]:
    if joins in ("add", "subtract"):
        return 1.0, value if joins == "add" else -value
    return (value if joins == "multiply" else 1 / value if value else 0.0), 0.0


def _step(model, graph, op: schema.OperatorT, index: int) -> tuple[str, np.ndarray] | None:
    """(what it does, constant) of an operator that adds to a tensor or multiplies it, and does nothing else."""
    joins = traits_of(flatbuffer.operator_name(model, op)).joins
    if joins not in _AFFINE or getattr(op.builtinOptions, "fusedActivationFunction", None):
        return None
    first, second = map(int, op.inputs)
    if joins in ("subtract", "divide") and first != index:
        return None
    constant = graph.tensors[second if first == index else first]
    made = graph.tensors[op.outputs[0]]
    same = flatbuffer.shape_signature(made) == flatbuffer.shape_signature(graph.tensors[index])
    if not flatbuffer.is_constant(model, constant) or not same:
        return None
    return joins, flatbuffer.constant(model, constant)


def _take_out(graph, index: int, way: list[schema.OperatorT]) -> None:
    last = int(way[-1].outputs[0])
    graph.operators = [op for op in graph.operators if not any(op is one for one in way)]
    for op in graph.operators:
        op.inputs = [index if int(i) == last else int(i) for i in op.inputs]


def _layers_of(graph, op: schema.OperatorT, layers: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    name = graph.tensors[op.outputs[0]].name.decode()
    return layers.get(name) or (name,)
