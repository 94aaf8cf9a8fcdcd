"""`describe`: what is inside of a `.tflite` file, read from the file alone."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.latency import macs_of
from tfstruct.convert.metadata import Metadata, read_metadata
from tfstruct.convert.ports import BETWEEN, Port, ports_by_function
from tfstruct.convert.stream_states import plan_of, state_bytes
from tfstruct.convert.verification import read_content
from tfstruct.reporting import Report, Sheet
from tfstruct.reporting.tables import counted
from tfstruct.reporting.tables import shape as sizes
from tfstruct.streaming import StreamPlan

_HALF = 0.5 + 1e-3  # of a step: what the whole zero point leaves of a normalization


@dataclasses.dataclass(frozen=True)
class FileOperator:
    """An operator of a file with its kernel.

    Attributes:
        operator: TensorFlow Lite's name.
        layers: Keras layers, as the names of tensors tell; empty where they do not.
        dtype: of its result.
        weights: dtype of its kernel or table; empty where it has none.
        weight_bytes: of all constants that it reads.
        zeros: share of the kernel's entries that are zero; None without a kernel.
        distinct: how many different values the kernel has.
        macs: multiply-accumulates; for operators that have none, elements.
    """

    operator: str
    layers: tuple[str, ...]
    dtype: str
    weights: str
    weight_bytes: int
    zeros: float | None
    distinct: int | None
    macs: int


@dataclasses.dataclass(frozen=True)
class FileReport(Report):
    """What is inside of a `.tflite` file.

    Attributes:
        name: of the file.
        bytes: its size.
        inputs, outputs: `Port`s: name, shape, dtype, scale and zero point; of several functions as `function/name`.
        operators: one entry an operator, in the order of the file.
        metadata: what the file says of itself, if anything.
        streaming: how a streaming file is run.
        state_bytes: of one stream of such a file.
        functions: the names of its functions (signatures), where it has several.
        counted_at: the shapes of inputs that MACs are counted at, where the file leaves some open.
    """

    name: str
    bytes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: tuple[FileOperator, ...]
    metadata: Metadata | None = None
    streaming: StreamPlan | None = None
    state_bytes: int = 0
    functions: tuple[str, ...] = ()
    counted_at: str = ""

    def sheet(self) -> Sheet:
        columns = (
            "operator", "Keras layers", "type", "weights", ("weight bytes", ",d"), ("zeros", ".1%"),
            ("distinct", ",d"), ("MACs", ",d"),
        )  # fmt: skip
        rows = [
            (o.operator, ", ".join(o.layers), o.dtype, o.weights, o.weight_bytes, o.zeros, o.distinct, o.macs)
            for o in self.operators
        ]
        facts = [("functions", ", ".join(self.functions))] if self.functions else []
        facts += [("MACs at", f"{self.counted_at}: other sizes are open")] if self.counted_at else []
        facts += [(f"input {port.name}", port.described(True) + self._taken_as_it_is(port)) for port in self.inputs]
        facts += [(f"output {port.name}", port.described(False)) for port in self.outputs]
        facts += self.streaming.facts(self.state_bytes) if self.streaming else ()
        facts += self.metadata.rows() if self.metadata else []
        title = f"{self.name}: {self.bytes:,} bytes, {counted(len(rows), 'operator')}"
        return Sheet(title, columns, rows, facts=facts)

    def _taken_as_it_is(self, port: Port) -> str:
        """Whether the scale of an input undoes the normalization that the file notes, so that nobody normalizes."""
        about = self.metadata.inputs.get(port.name) if self.metadata else None
        if about is None or not about.mean or not port.scale or port.dtype.itemsize > 1:
            return ""
        ends = np.iinfo(port.dtype)
        x = np.array([ends.min, ends.max])[:, None]
        stored = (x - np.array(about.mean)) / np.array(about.std) / port.scale + port.zero_point
        return "; x goes in as it is: the scale is the normalization" if np.abs(stored - x).max() <= _HALF else ""


def describe(tflite) -> FileReport:
    """What is inside of a `.tflite` file: inputs and outputs with scales, operators, weights with their zeros.

    Args:
        tflite: a `TFLiteModel`, the bytes of a file, or its path.

    Returns:
        `FileReport`.

    Raises:
        ConversionError: other bytes, or a damaged file.

    Example:
        >>> lite = tfstruct.to_tflite(model, "float32")
        >>> [one.operator for one in tfstruct.convert.describe(lite).operators]
        ['FULLY_CONNECTED', 'FULLY_CONNECTED']
    """
    content = read_content(tflite)
    name = pathlib.Path(tflite).name if isinstance(tflite, str | os.PathLike) else "the file"
    model = flatbuffer.read(content)
    functions, (inputs, outputs) = ports_by_function(content)
    found = flatbuffer.operators(model, getattr(tflite, "layers", {}))
    plan = plan_of(content)
    return FileReport(
        name,
        len(content),
        inputs,
        outputs,
        tuple(_operators(model, found)),
        read_metadata(content),
        plan,
        state_bytes(content, plan) if plan else 0,
        functions,
        _counted_at(model, inputs),
    )


def _counted_at(model, inputs: Iterable[Port]) -> str:
    """The shapes that the tensors of open inputs hold, in words; else ""."""
    graph = model.subgraphs[0]
    return ", ".join(
        f"{port.name} {sizes(graph.tensors[port.index].shape)}"
        for port in inputs
        if None in port.shape and BETWEEN not in port.name
    )


def _operators(model, found: Iterable[flatbuffer.Operator]):
    for op in found:
        graph = model.subgraphs[op.subgraph]
        read = [graph.tensors[i] for i in graph.operators[op.index].inputs if i >= 0]
        constants = [tensor for tensor in read if flatbuffer.is_constant(model, tensor)]
        held = sum(len(model.buffers[tensor.buffer].data) for tensor in constants)
        zeros, distinct = _kernel(model, constants, op.weights)
        layers = op.layers or flatbuffer.layers_by_name(op)
        yield FileOperator(op.name, layers, op.dtype, op.weights, held, zeros, distinct, macs_of(model, op))


def _kernel(model, constants, dtype: str) -> tuple[float | None, int | None]:
    kernel = next((tensor for tensor in constants if dtype and flatbuffer.dtype_name(tensor) == dtype), None)
    if kernel is None:
        return None, None
    is_float = dtype.startswith("float")
    values = flatbuffer.constant(model, kernel, np.dtype(dtype)) if is_float else flatbuffer.integers(model, kernel)
    return 1 - np.count_nonzero(values) / max(values.size, 1), len(np.unique(values))
