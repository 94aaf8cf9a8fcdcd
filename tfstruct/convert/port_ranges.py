"""Where a quantized file rounds what goes in and comes out: step and range of its inputs and outputs."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfstruct.convert import flatbuffer
from tfstruct.convert.runtime import Port, Runtime

# Sigmoid and softmax have this step and zero point by the int8 specification, whatever their values are.
_PROBABILITIES = {"int8": (1 / 256, -128), "uint8": (1 / 256, 0)}


@dataclasses.dataclass(frozen=True)
class PortRange:
    """The integers behind one input or output.

    Attributes:
        step: the difference of neighbouring integers.
        low, high: what the smallest and the largest integer stand for.
        probability: True for the fixed scale of sigmoid and softmax.
    """

    step: float
    low: float
    high: float
    probability: bool

    def beyond(self, values: np.ndarray) -> np.ndarray:
        """Which values lie outside by more than a step: those are clipped, not rounded."""
        reach = 1.001 * self.step
        return (values < self.low - reach) | (values > self.high + reach)


def port_ranges(model: schema.ModelT, runtime: Runtime) -> tuple[dict[str, PortRange], dict[str, PortRange]]:
    """By name, the borders of inputs and outputs, where there are integers.

    Where the file takes and gives floats, those behind its QUANTIZE and DEQUANTIZE.
    """
    graph = model.subgraphs[0]

    def behind(port: Port, own: str, other: str, name: str):
        """The tensor on the other side of the only operator at this one, if that changes the number format."""
        at = [op for op in graph.operators if port.index in list(getattr(op, own))]
        if len(at) == 1 and flatbuffer.operator_name(model, at[0]) == name:
            return graph.tensors[getattr(at[0], other)[0]]
        return None

    def port_range(port: Port, *way: str) -> PortRange | None:
        scale, zero, dtype = port.scale, port.zero_point, port.dtype
        if not scale:
            tensor = behind(port, *way)
            quantization = tensor.quantization if tensor is not None else None
            if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
                return None
            scale, zero = float(quantization.scale[0]), int(quantization.zeroPoint[0])
            dtype = np.dtype(flatbuffer.dtype_name(tensor))
        limits = np.iinfo(dtype)
        low, high = (scale * (int(limit) - zero) for limit in (limits.min, limits.max))
        return PortRange(scale, low, high, _PROBABILITIES.get(dtype.name) == (scale, zero))

    def known(ports: Iterable[Port], *way: str) -> dict[str, PortRange]:
        found = {port.name: port_range(port, *way) for port in ports}
        return {name: one for name, one in found.items() if one is not None}

    inputs = known(runtime.inputs, "inputs", "outputs", "QUANTIZE")
    outputs = known(runtime.outputs, "outputs", "inputs", "DEQUANTIZE")
    return inputs, outputs


def floats_at_ports(found: Sequence[flatbuffer.Operator]) -> list[flatbuffer.Operator]:
    """Operators in float that read an input of integers, or write such an output: a change of format is between."""
    made = {name: op for op in found if op.subgraph == 0 for name in op.outputs}
    read = {name: op for op in found if op.subgraph == 0 for name in op.inputs}

    def is_rounded(name: str, way: dict, side: str) -> bool:
        first = name
        while name in way and way[name].name in flatbuffer.BORDER_OPERATORS:
            name = getattr(way[name], side)[0]
        return name not in way and name != first

    return [
        op
        for op in flatbuffer.float_operators(found)
        if op.subgraph == 0
        and (
            any(is_rounded(name, made, "inputs") for name in op.inputs)
            or any(is_rounded(name, read, "outputs") for name in op.outputs)
        )
    ]
