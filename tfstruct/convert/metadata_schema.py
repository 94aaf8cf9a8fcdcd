"""TensorFlow Lite's metadata schema (identifier M001): its tables as data, written to and read from a flatbuffer.

The fields are those of `metadata_schema.fbs` of TensorFlow Lite Support, and of MediaPipe, which goes on with it; a
table here is a dict by field name.
"""

import struct
from typing import Any

import flatbuffers
from flatbuffers import number_types
from flatbuffers.table import Table

IDENTIFIER = b"M001"
# Kinds of fields: a number, "string", the name of a table, or the name of a union, which takes two places; in a list, a
# vector of such. Field names stand in the order of the schema, which is what a file knows of them.
_FILES = ["AssociatedFile"]
TABLES: dict[str, dict[str, Any]] = {
    "ModelMetadata": {
        "name": "string", "description": "string", "version": "string", "subgraph_metadata": ["SubGraphMetadata"],
        "author": "string", "license": "string", "associated_files": _FILES, "min_parser_version": "string",
    },
    "SubGraphMetadata": {
        "name": "string", "description": "string", "input_tensor_metadata": ["TensorMetadata"],
        "output_tensor_metadata": ["TensorMetadata"], "associated_files": _FILES,
    },
    "TensorMetadata": {
        "name": "string", "description": "string", "dimension_names": ["string"], "content": "Content",
        "process_units": ["ProcessUnit"], "stats": "Stats", "associated_files": _FILES,
    },
    "AssociatedFile": {"name": "string", "description": "string", "type": "byte", "locale": "string"},
    "Content": {"content_properties": "ContentProperties"},
    "FeatureProperties": {},
    "ImageProperties": {"color_space": "byte"},
    "ProcessUnit": {"options": "ProcessUnitOptions"},
    "NormalizationOptions": {"mean": ["float"], "std": ["float"]},
    "Stats": {"max": ["float"], "min": ["float"]},
}  # fmt: skip
# The tables of a union by number, of those that are known here.
_UNIONS = {
    "ContentProperties": {1: "FeatureProperties", 2: "ImageProperties"},
    "ProcessUnitOptions": {1: "NormalizationOptions"},
}
_NUMBERS = {"byte": number_types.Int8Flags, "float": number_types.Float32Flags}
_MOST_VALUES = 100_000


def write(data: dict) -> bytes:
    """A `ModelMetadata` as a flatbuffer. A union is a pair (name of the table, its fields)."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write_table(builder, "ModelMetadata", data), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def read(content: bytes) -> dict:
    """The inverse of `write`; what is not in `TABLES` is passed over.

    Raises:
        ValueError: no such flatbuffer, or one with more values than any description has.
    """
    if content[4:8] != IDENTIFIER:
        raise ValueError("it has no identifier M001")
    try:
        start = struct.unpack_from("<I", content)[0]
        return _Reader(content).table("ModelMetadata", start)
    except (struct.error, IndexError, TypeError, OverflowError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from None


def _places(table: str) -> dict[str, int]:
    """Field -> its number; of a union that of its value, one behind that of its type."""
    found, place = {}, 0
    for name, kind in TABLES[table].items():
        place += isinstance(kind, str) and kind in _UNIONS
        found[name] = place
        place += 1
    return found


def _write_table(builder: flatbuffers.Builder, table: str, data: dict) -> int:
    kinds, places = TABLES[table], _places(table)
    made = {}
    for name, value in data.items():
        kind = kinds[name]
        if isinstance(kind, list):
            made[name] = _write_vector(builder, kind[0], value)
        elif kind in _UNIONS:
            made[name] = _write_table(builder, *value)
        elif kind not in _NUMBERS:
            made[name] = builder.CreateString(value) if kind == "string" else _write_table(builder, kind, value)
    builder.StartObject(max(places.values(), default=-1) + 1)
    for name, value in data.items():
        kind = kinds[name]
        if name not in made:
            builder.PrependSlot(_NUMBERS[kind], places[name], value, None)
            continue
        builder.PrependUOffsetTRelativeSlot(places[name], made[name], 0)
        if isinstance(kind, str) and kind in _UNIONS:
            number = next(n for n, one in _UNIONS[kind].items() if one == value[0])
            builder.PrependUint8Slot(places[name] - 1, number, 0)
    return builder.EndObject()


def _write_vector(builder: flatbuffers.Builder, kind: str, values) -> int:
    if kind in _NUMBERS:
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            builder.PrependFloat32(value)
        return builder.EndVector()
    made = [builder.CreateString(v) if kind == "string" else _write_table(builder, kind, v) for v in values]
    builder.StartVector(4, len(made), 4)
    for one in reversed(made):
        builder.PrependUOffsetTRelative(one)
    return builder.EndVector()


class _Reader:
    """Reads tables, and counts what it reads: places in a file may be named again and again."""

    def __init__(self, content: bytes):
        self._content, self._left = content, _MOST_VALUES

    def table(self, name: str, place: int) -> dict:
        self._count(1)
        own = Table(self._content, place)
        found: dict[str, Any] = {}
        for field, number in _places(name).items():
            offset, kind = own.Offset(4 + 2 * number), TABLES[name][field]
            if not offset:
                continue
            if isinstance(kind, list):
                found[field] = self._vector(own, kind[0], offset)
            elif kind in _UNIONS:
                of_type = own.Offset(2 + 2 * number)
                which = own.Get(number_types.Uint8Flags, of_type + own.Pos) if of_type else 0
                known = _UNIONS[kind].get(which)
                if known:
                    found[field] = known, self.table(known, own.Indirect(offset + own.Pos))
            else:
                found[field] = self._value(own, kind, offset + own.Pos)
        return found

    def _vector(self, own: Table, kind: str, offset: int) -> list:
        start, count = own.Vector(offset), own.VectorLen(offset)
        self._count(count)
        return [self._value(own, kind, start + 4 * i) for i in range(count)]

    def _value(self, own: Table, kind: str, place: int):
        if kind in _NUMBERS:
            return own.Get(_NUMBERS[kind], place)
        if kind == "string":
            text = own.String(place)
            self._count(1 + len(text) // 16)
            return text.decode()
        return self.table(kind, own.Indirect(place))

    def _count(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise ValueError(f"it names more than {_MOST_VALUES:,} values, as no description does")
