"""A `.tflite` file as the arrays of its constants and the bytes around them."""

from collections.abc import Iterator, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfstruct.convert import flatbuffer
from tfstruct.convert.packing.arrays import bit_patterns

# Bytes of a constant that is an array of its own; smaller ones are left among names and scales.
_LEAST = 64
_ITEM = {"float32": 4, "int32": 4, "uint32": 4, "float16": 2, "int16": 2, "uint16": 2, "int64": 8, "float64": 8}


def take_apart(content: bytes) -> tuple[dict, list[np.ndarray]]:
    """What `put_together` needs: (description, arrays). The last array is what stands around the others."""
    widths = _widths(flatbuffer.read(content))
    places, parts, rest, end = [], [], [], 0
    for buffer, start, size in _regions(content):
        places.append(start)
        parts.append(bit_patterns(content[start : start + size], widths.get(buffer, 1)))
        rest.append(content[end:start])
        end = start + size
    rest.append(content[end:])
    return {"places": places}, [*parts, bit_patterns(b"".join(rest))]


def put_together(description: dict, parts: Sequence[np.ndarray]) -> bytes:
    """The file, byte for byte."""
    *constants, around = (part.tobytes() for part in parts)
    rebuilt, end, used = [], 0, 0
    for start, constant in zip(description["places"], constants, strict=True):
        rebuilt += [around[used : used + start - end], constant]
        used, end = used + start - end, start + len(constant)
    return b"".join([*rebuilt, around[used:]])


def array_of(content: bytes) -> dict[int, int]:
    """Buffer of a file -> which of the arrays of `take_apart` holds it."""
    return {buffer: index for index, (buffer, _, _) in enumerate(_regions(content))}


def _widths(model: schema.ModelT) -> dict[int, int]:
    """Buffer -> bytes of an item."""
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    return {tensor.buffer: _ITEM.get(flatbuffer.dtype_name(tensor), 1) for tensor in tensors}


def _regions(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(buffer, start, size) of the constants that become arrays, as they follow each other in the file."""
    whole = np.frombuffer(content, np.uint8)
    model = schema.Model.GetRootAsModel(content, 0)
    found = []
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.Offset() > 1:  # behind the flatbuffer, in files of more than 2 GB
            found.append((int(buffer.Offset()), int(buffer.Size()), index))
        elif buffer.DataLength():
            view = buffer.DataAsNumpy()
            found.append((view.ctypes.data - whole.ctypes.data, len(view), index))
    end = 0
    for start, size, index in sorted(found):
        if end <= start and start + size <= len(content) and size >= _LEAST:
            end = start + size
            yield index, start, size
