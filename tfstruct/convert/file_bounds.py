"""How much a `.tflite` file becomes in memory, counted before it is unpacked.

The format lets vectors point at one table again and again, at every level: some kilobytes then say billions of objects.
Each table is looked at once, whatever points at it, so that counting takes no longer than the file is long.
"""

import collections
import functools
from collections.abc import Callable

from ai_edge_litert import schema_py_generated as schema

# An object is some hundred bytes; the largest models have some ten thousand operators and tensors.
_MOST_OBJECTS = 500_000
_MOST_NUMBERS = 20_000_000
# A table takes 8 bytes at least; files hold vectors once that belong to several tensors, and buffers too.
_OBJECTS_PER_BYTE, _NUMBERS_PER_BYTE, _CONSTANTS_PER_BYTE = 1 / 4, 4, 64
_LEAST = 1 << 16
# Deeper than any table of the schema.
_DEEPEST = 16
# Tables whose kind another field tells: (class of the kinds, by method).
_UNIONS = {
    "BuiltinOptions": schema.BuiltinOptions,
    "BuiltinOptions2": schema.BuiltinOptions2,
    "Details": schema.QuantizationDetails,
    "ArraySegments": schema.SparseIndexVector,
    "ArrayIndices": schema.SparseIndexVector,
}


# The files that were found sound last, by size and hash, which Python keeps with the bytes and seeds anew in each
# process: a conversion reads the same few again and again.
_SOUND: collections.deque[tuple[int, int]] = collections.deque(maxlen=64)


def check_size(content: bytes) -> None:
    """Checks how many objects and numbers `content` unpacks to.

    Raises:
        ValueError: more than any model of its size.
        struct.error, IndexError, TypeError: offsets that leave the file.
    """
    known = len(content), hash(content)
    if known not in _SOUND:
        _Count(content).check(schema.Model.GetRootAs(content, 0))
        _SOUND.append(known)


class _Count:
    def __init__(self, content: bytes):
        size = len(content)
        self.objects = min(_MOST_OBJECTS, int(_LEAST / 8 + _OBJECTS_PER_BYTE * size))
        self.numbers = min(_MOST_NUMBERS, int(_LEAST + _NUMBERS_PER_BYTE * size))
        self.constants = _LEAST + _CONSTANTS_PER_BYTE * size
        self.steps = int(_LEAST + size)
        self.known: dict[tuple[type, int], tuple[int, int, int]] = {}

    def check(self, root) -> None:
        self._check(self.table(root, 0))

    def table(self, table, depth: int) -> tuple[int, int, int]:
        """(objects, numbers, bytes of constants) that a table and all below it become."""
        key = (type(table), table._tab.Pos)
        if key not in self.known:
            if depth > _DEEPEST:
                raise ValueError("its tables are nested too deep")
            objects, numbers, constants = 1, 0, 0
            for part in self._parts(table, depth):
                objects, numbers, constants = objects + part[0], numbers + part[1], constants + part[2]
                self._check((objects, numbers, constants))
            self.known[key] = objects, numbers, constants
        return self.known[key]

    def _parts(self, table, depth: int):
        kind: type = type(table)
        kinds = _fields(kind)
        for length in kinds.numbers:
            count = length(table)
            yield (0, 0, count) if isinstance(table, schema.Buffer) else (0, count, 0)
        for length, item in kinds.vectors:
            count = length(table)
            self._step(count)
            for index in range(count):
                yield self._value(item(table, index), depth)
        for field in kinds.single:
            yield self._value(field(table), depth)
        for name, field in kinds.unions:
            inner = field(table)
            cls = _union_class(name, getattr(table, f"{name}Type")()) if inner is not None else None
            if cls is not None:
                value = cls()
                value.Init(inner.Bytes, inner.Pos)
                yield self._value(value, depth)

    def _value(self, value, depth: int) -> tuple[int, int, int]:
        if isinstance(value, bytes):
            return 1, len(value), 0
        return self.table(value, depth + 1) if hasattr(value, "_tab") else (0, 0, 0)

    def _step(self, count: int) -> None:
        self.steps -= count
        if self.steps < 0:
            raise ValueError("its vectors overlap")

    def _check(self, total: tuple[int, int, int]) -> None:
        if total[0] > self.objects or total[1] > self.numbers or total[2] > self.constants:
            raise ValueError("it would become far more objects in memory than any model of its size")


class _Fields:
    """The methods of a table's class: numbers by their count, vectors by count and item, values, unions by name."""

    def __init__(self, cls: type):
        methods = {name: method for name, method in vars(cls).items() if callable(method) and name[0].isupper()}
        self.numbers: list[Callable] = []
        self.vectors: list[tuple[Callable, Callable]] = []
        self.single: list[Callable] = []
        self.unions: list[tuple[str, Callable]] = []
        for name, method in methods.items():
            if f"{name}Length" in methods:
                length = methods[f"{name}Length"]
                if f"{name}AsNumpy" in methods:
                    self.numbers.append(length)
                else:
                    self.vectors.append((length, method))
            elif name in _UNIONS:
                self.unions.append((name, method))
            elif name != "Init" and not name.endswith(("Length", "AsNumpy", "IsNone")):
                self.single.append(method)


_fields = functools.cache(_Fields)


def _union_class(name: str, kind: int) -> type | None:
    names = {value: key for key, value in vars(_UNIONS[name]).items() if isinstance(value, int)}
    return getattr(schema, names.get(kind, ""), None)
