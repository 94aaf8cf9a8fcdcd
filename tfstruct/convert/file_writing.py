"""Writing a `.tflite` file: equal numbers once, and the constants of a large one without a copy of them."""

import hashlib

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

_BUFFER_ALIGNMENT = 16
_TABLE = 1 << 10  # bytes of a tensor or operator, its name and shape included; few take more
# Constants of fewer bytes stay among the tables.
_BEHIND = 1 << 10


class SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors of numbers once: zero points alone are 16 bytes of each channel of a kernel. Constants are
    aligned as the schema asks, for processors that cannot read an integer elsewhere."""

    def __init__(self, size: int):
        super().__init__(min(size, self.MAX_BUFFER_SIZE))
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        x = np.ascontiguousarray(x)
        key = (x.dtype.str, hashlib.sha256(x.data).digest())  # a model's weights are not held twice
        if key not in self._written:
            if x.dtype == np.uint8:  # the contents of a `Buffer`
                self.Prep(_BUFFER_ALIGNMENT, len(x))
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


def write(model: schema.ModelT) -> bytes:
    """The inverse of `flatbuffer.read`."""
    packed = _packed(model)
    return bytes(memoryview(packed.Bytes)[packed.Head() :])


def write_behind(model: schema.ModelT) -> bytes:
    """The same with large constants behind the tables, where each is copied once: a step towards another file. Runtimes
    for microcontrollers and older ones do not read it.
    """
    large = {i: one.data for i, one in enumerate(model.buffers) if one.data is not None and len(one.data) >= _BEHIND}
    try:
        for index in large:  # numbers other than 0, which have no place in the file
            held = model.buffers[index]
            held.data, held.offset, held.size = None, 1, 1
        packed = _packed(model)
    finally:
        for index, data in large.items():
            held = model.buffers[index]
            held.data, held.offset, held.size = data, 0, 0
    tables = packed.Bytes[packed.Head() :]
    parts, end = [tables], len(tables)
    places: dict[bytes, int] = {}
    root = schema.Model.GetRootAs(tables)
    for index, data in large.items():
        data = np.ascontiguousarray(data).view(np.uint8)
        key = hashlib.sha256(data.data).digest()
        if key not in places:
            parts += [bytes(-end % _BUFFER_ALIGNMENT), data.data]
            places[key] = end + len(parts[-2])
            end = places[key] + len(data)
        flatbuffer_utils.update_packed_buffer(root.Buffers(index), places[key], len(data))
    return b"".join(parts)


def _packed(model: schema.ModelT) -> SharingBuilder:
    # Room for all from the start: a builder that grows copies what it has at each doubling.
    constants = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    tables = sum(len(graph.tensors) + len(graph.operators) for graph in model.subgraphs)
    builder = SharingBuilder(constants + tables * _TABLE + (1 << 16))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return builder
