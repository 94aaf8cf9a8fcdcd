"""Inputs and outputs of a file in C++: comments with the formulas, constants with scales and sizes."""

import json
import math
from collections.abc import Sequence

from tfstruct.convert.ports import Port, ports_of
from tfstruct.reporting.tables import shape

_TYPES = {"float32": "float", "bool": "bool"}


def c_type(port: Port) -> str:
    """`"int8_t"`, `"float"`, ..."""
    return _TYPES.get(port.dtype.name, f"{port.dtype.name}_t")


def label(name: str, side: str, number: int, ports: Sequence[Port]) -> str:
    """What the constants of a port begin with: `"model_input"`, or `"model_input0"` where there are several."""
    return f"{name}_{side}{number if len(ports) > 1 else ''}"


def elements(port: Port) -> int:
    """How many numbers a batch of the file's own size has; open sizes are 1."""
    return math.prod(size or 1 for size in port.shape)


def port_lines(content: bytes, name: str) -> str:
    """The constants of all inputs and outputs, each with what it stands for.

    Args:
        name: an identifier, which theirs begin with.
    """
    inputs, outputs = ports_of(content)
    lines = []
    for side, ports in (("input", inputs), ("output", outputs)):
        for number, port in enumerate(ports):
            own = label(name, side, number, ports)
            words = f", {port.to_stored if side == 'input' else port.to_real}" if port.scale else ""
            # As JSON it has no line breaks, which would end the comment.
            lines.append(f"// {side} {json.dumps(port.name)}: {shape(port.shape)} {port.dtype.name}{words}")
            lines.append(f"constexpr unsigned int {own}_elements = {elements(port)};")
            if port.scale:
                lines.append(f"constexpr float {own}_scale = {port.scale!r}f;")
                lines.append(f"constexpr int {own}_zero_point = {port.zero_point};")
    return "\n".join(lines) + "\n"
