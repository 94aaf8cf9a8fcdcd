"""Biases of an integer file: integers of 32 bits, in units of the input's scale times the kernel's, and if they fit."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfstruct.convert import flatbuffer
from tfstruct.precisions import PRECISIONS, stored_within
from tfstruct.quantize.rounding import largest_bias
from tfstruct.tflite_operators import traits_of

_KINDS = {"int32": np.int32, "int64": np.int64}


class _Bias(NamedTuple):
    """A bias of an integer file.

    Attributes:
        output: what its operator makes.
        value: in integers.
        step: the scale of the operator's input.
        top, most: the largest integers of the kernel, and of a bias beside it.
    """

    output: str
    value: np.ndarray
    step: float
    top: int
    most: float

    @property
    def size(self) -> float:
        return float(np.abs(self.value.astype(np.float64)).max(initial=0.0))


def limits_that_fit(
    reference: schema.ModelT, quantized: schema.ModelT, limits: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Largest magnitudes of the kernels with which every bias fits, for kernels of which one does not.

    A bias b is stored as round(b / (s_x s_w)), s_x the scale of the input and s_w = l / Q that of the kernel, whose
    largest magnitude l stands for the integer Q. Where a channel has no weights, or tiny ones behind a batch norm, s_w
    is so small that b does not fit into 32 bits. There l becomes |b| Q / (s_x 2^30), as in TensorFlow's own quantizer,
    with 2^26 beside 4-bit weights (`largest_bias`); beside such a bias nothing is seen of what the weights lose.

    Args:
        reference: the float file, as `flatbuffer.read` gives it.
        quantized: what a quantizer made of it.
        limits: largest magnitudes that it was given, see `trained.weight_limits`.

    Returns:
        By kernel tensor of the float file, one an output channel, the other axes of length 1. A kernel that several
        operators read has what the one needs that needs most.
    """
    narrow = {bias.output: bias for bias in _stored(quantized) if bias.size > bias.most}
    if not narrow:
        return {}
    graph = reference.subgraphs[0]
    found: dict[str, np.ndarray] = {}
    for op in graph.operators:
        place = _place(reference, op)
        if place is None:
            continue
        one = narrow.get(graph.tensors[op.outputs[0]].name.decode())
        if one is None:
            continue
        bias, kernel = graph.tensors[op.inputs[place]], graph.tensors[op.inputs[1]]
        if not (flatbuffer.is_constant(reference, bias) and flatbuffer.is_constant(reference, kernel)):
            continue
        weights = np.abs(flatbuffer.constant(reference, kernel))
        axis = traits_of(flatbuffer.operator_name(reference, op)).out_axis % weights.ndim
        shape = [-1 if i == axis else 1 for i in range(weights.ndim)]
        name = kernel.name.decode()
        largest = weights.max(axis=tuple(i for i in range(weights.ndim) if i != axis))
        now = found.get(name, (limits or {}).get(name, largest)).reshape(-1)
        size = np.abs(flatbuffer.constant(reference, bias).astype(np.float64))
        needed = (size * one.top / (one.step * one.most)).astype(np.float32)
        found[name] = np.maximum(now, needed).reshape(shape).astype(np.float32)
    return found


def lost(content: bytes | schema.ModelT, layers: Mapping[str, tuple[str, ...]]) -> list[str]:
    """A line on each operator of an integer file with biases at a limit of 32 bits: what they were is unknown."""
    lines = []
    for bias in _stored(flatbuffer.parsed(content)):
        count = int(np.sum(np.abs(bias.value.astype(np.float64)) >= 2 * bias.most - 1))
        if count:
            where = ", ".join(layers.get(bias.output, ())) or bias.output
            lines.append(
                f"{count} of {bias.value.size} biases of {where} do not fit into 32 bits and are lost: the weights, or "
                "the values that the layer reads, are too small beside them. Keep the layer in float32 "
                "(Recipe(layers={pattern: 'float32'}), --keep-float)"
            )
    return lines


def in_64_bits(content: bytes) -> bytes:
    """Biases of operators on 16-bit activations in 64 bits, as kernels read them: TensorFlow's quantizer writes 32."""
    model = flatbuffer.read(content)
    for graph in model.subgraphs:
        for op in graph.operators:
            place = _place(model, op)
            if place is None:
                continue
            bias, made = graph.tensors[op.inputs[place]], graph.tensors[op.outputs[0]]
            kinds = [flatbuffer.dtype_name(tensor) for tensor in (bias, made)]
            if kinds == ["int32", "int16"] and flatbuffer.is_constant(model, bias):
                flatbuffer.set_constant(model, bias, flatbuffer.constant(model, bias, np.int32).astype(np.int64))
                bias.type = schema.TensorType.INT64
    return flatbuffer.write(model)


def _place(model, op) -> int | None:
    """Which input of an operator is its bias; None where it has none."""
    place = traits_of(flatbuffer.operator_name(model, op)).bias
    return None if place is None or len(op.inputs) <= place or op.inputs[place] < 0 else place


def _stored(model) -> Iterator[_Bias]:
    for graph in model.subgraphs:
        for op in graph.operators:
            place = _place(model, op)
            if place is None:
                continue
            source = graph.tensors[op.inputs[traits_of(flatbuffer.operator_name(model, op)).data]]
            kernel, bias = graph.tensors[op.inputs[1]], graph.tensors[op.inputs[place]]
            kinds = [flatbuffer.dtype_name(tensor) for tensor in (bias, kernel)]
            scale = getattr(source.quantization, "scale", None)
            whole = kinds[0] in _KINDS and kinds[1] in stored_within(8)
            if whole and scale is not None and flatbuffer.is_constant(model, bias):
                value = flatbuffer.constant(model, bias, _KINDS[kinds[0]])
                kept = PRECISIONS[kinds[1]]
                name, most = graph.tensors[op.outputs[0]].name.decode(), largest_bias(kept.weight_bits or 8)
                yield _Bias(name, value, float(scale[0]), kept.levels[1], most)
