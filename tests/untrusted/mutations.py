"""Seeded changes of files: bytes, JSON values, archives, messages and tables; one seed makes one file."""

import base64
import copy
import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

# The worker replaces it by a folder that nothing may touch.
CANARY = "/canary"
_INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 48, (1 << 63) - 1)


def nasty(rng: random.Random) -> Any:
    """A value of any kind, with those that readers stumble over."""
    code = {"class_name": "__lambda__", "config": {"value": base64.b64encode(b"\xe3\x00\x00\x00").decode()}}
    values: tuple = (
        None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, 1e308, 1e-320,
        float("nan"), float("inf"), -float("inf"), -0.0, 0.5, "", "x", "int8", "nan", "1e400", "0", "*", "..",
        "../../escape", "/etc/passwd", f"{CANARY}/secret", f"{CANARY}/written", "os.system", "os:system",
        "canary_module:run", "a\nb\r\x1b[31m", "\x00", "\ud800", "<script>alert(1)</script>", "x" * 20_000,
        [], {}, [[]], [{}], [None], [1], [1, "a"], [[1, 2], [3]], [0] * 3_000, {"": None}, {"x": {}},
        {"class_name": "Lambda", "config": {"function": code}},
        {"class_name": "function", "config": "system", "module": "os", "registered_name": "system"},
        {"class_name": "run", "config": {}, "module": "canary_module", "registered_name": None},
        {"class_name": "StringLookup", "config": {"vocabulary": f"{CANARY}/secret"}, "module": "keras.layers"},
        code,
    )  # fmt: skip
    value = copy.deepcopy(rng.choice(values))
    if rng.random() < 0.05:
        for _ in range(rng.choice((3, 40, 400))):
            value = [value] if rng.random() < 0.5 else {"config": value}
    return value


def bytes_of(content: bytes, rng: random.Random) -> bytes:
    """A few bytes are others, more, fewer, swapped or doubled."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not made:
            break
        at, what = rng.randrange(len(made)), rng.randrange(8)
        if what == 0:
            made[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            made[at] = rng.randrange(256)
        elif what == 2:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(_INTEGERS) & ((1 << 8 * size) - 1)
            made[at : at + size] = number.to_bytes(size, "little" if rng.random() < 0.8 else "big")
        elif what == 3:
            del made[at : at + rng.choice((1, 2, 4, 16, 256))]
        elif what == 4:
            made[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))
        elif what == 5:
            source = rng.randrange(len(made))
            part = made[source : source + rng.choice((4, 16, 64))]
            made[at : at + len(part)] = part
        elif what == 6:
            part = made[at : at + rng.choice((4, 16, 256))]
            made[at:at] = part
        elif rng.random() < 0.3:
            del made[at:]
    return bytes(made)


def value_of(data: Any, rng: random.Random) -> Any:
    """Plain data with one to three values of another kind, gone, doubled, or in each other's place."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(data))
        if not places:
            return nasty(rng)
        holder, key = rng.choice(places)
        what = rng.randrange(10)
        if what < 5:
            holder[key] = nasty(rng)
        elif what == 5:
            del holder[key]
        elif what == 6:
            other, place = rng.choice(places)
            holder[key], other[place] = other[place], holder[key]
            if _in_itself(data):
                return nasty(rng)
        elif what == 7 and isinstance(holder, list):
            holder.extend(copy.deepcopy(holder[key]) for _ in range(rng.choice((1, 5, 100))))
        elif what == 8 and isinstance(holder, dict):
            holder[str(nasty(rng))[:100]] = holder.pop(key)
        else:
            value = holder[key]
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                holder[key] = [value] if rng.random() < 0.5 else {"value": value}
            elif isinstance(value, str):
                holder[key] = rng.choice((value * 2, value[: len(value) // 2], value.upper(), f"{value}\x00", " "))
            else:
                part = value / 3 if abs(value) < 1e300 else 0.5
                holder[key] = rng.choice((-value, value + 1, value * 1000, str(value), part))
    return data


def _places(data: Any) -> list[tuple[Any, Any]]:
    found, todo = [], [data]
    while todo:
        holder = todo.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            found += [(holder, key) for key in keys]
            todo += [holder[key] for key in keys]
    return found


def _in_itself(data: Any) -> bool:
    """True where a value holds itself, which no file can write."""
    todo = [(data, 0)]
    while todo:
        holder, depth = todo.pop()
        if depth > 1_000:
            return True
        inner = holder.values() if isinstance(holder, dict) else holder if isinstance(holder, list) else ()
        todo += [(one, depth + 1) for one in inner]
    return False


def json_of(content: bytes, rng: random.Random) -> bytes:
    """A JSON text with other values, repeated keys, deep nesting, or other bytes."""
    what = rng.random()
    if what < 0.2:
        return bytes_of(content, rng)
    if what < 0.23:
        depth = rng.choice((200, 5_000, 100_000))
        return b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    text = json.dumps(value_of(json.loads(content), rng))
    if rng.random() < 0.15 and (keys := re.findall(r'"[^"\\]*": ', text)):
        key = rng.choice(keys)
        text = text.replace(key, f"{key}{json.dumps(nasty(rng))}, {key}", 1)
    return text.encode()


def toml_of(content: bytes, rng: random.Random) -> bytes:
    """A TOML text with other values, lines in other places, deep nesting, or other bytes."""
    what = rng.random()
    if what < 0.3:
        return bytes_of(content, rng)
    lines = content.decode().splitlines()
    at = rng.randrange(len(lines))
    if what < 0.36:
        depth = rng.choice((100, 2_000, 100_000))
        lines[at] = rng.choice(("x = " + "[" * depth + "]" * depth, "a." * depth + "a = 1", "x = " + "{a=" * depth))
    elif what < 0.9 and "=" in lines[at]:
        value = nasty(rng)
        written = rng.choice(
            (json.dumps(value), "1979-05-27T07:32:00Z", "9" * 5_000, "0x" + "f" * 5_000, "nan", "-inf")
        )
        lines[at] = f"{lines[at].split('=')[0]}= {written}"
    elif what < 0.95:
        lines.insert(at, rng.choice(lines))
    else:
        lines[at] = f"[{json.dumps(str(nasty(rng))[:200])}]"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def archive_of(content: bytes, rng: random.Random, members: dict[str, Callable]) -> bytes:
    """A zip archive in which one member is changed, named otherwise, doubled or gone, or whose bytes are others.

    Args:
        members: how the members of these names change; the others by their bytes.
    """
    if rng.random() < 0.3:
        return bytes_of(content, rng)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        names = source.namelist()
        chosen, what = rng.choice(names), rng.random()
        with zipfile.ZipFile(made, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for name in names:
                inside = source.read(name)
                if name != chosen:
                    archive.writestr(name, inside)
                elif what < 0.8:
                    archive.writestr(name, members.get(name, bytes_of)(inside, rng))
                elif what < 0.85:
                    archive.writestr(
                        rng.choice(("../" + name, f"{CANARY}/written", "a/../../x", name + "\x00")), inside
                    )
                elif what < 0.9:
                    archive.writestr(name, inside)
                    archive.filelist[-1].file_size = rng.choice((0, 1, 1 << 31, (1 << 32) - 2))
                elif what < 0.95:
                    archive.writestr(f"assets/{name}", inside)
    return made.getvalue()


def message_of(content: bytes, message: Any, rng: random.Random) -> bytes:
    """A protocol buffer with a field that is another, cleared or doubled, at any depth; or other bytes.

    Args:
        message: an empty one of its type.
    """
    if rng.random() < 0.4:
        return bytes_of(content, rng)
    message.ParseFromString(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        holder = message
        for _ in range(rng.choice((1, 2, 3, 5, 8, 12))):
            inner = [value for _, value in holder.ListFields() for value in _messages(value)]
            if not inner:
                break
            holder = rng.choice(inner)
        fields = holder.ListFields()
        if fields:
            _change_field(holder, *rng.choice(fields), rng)
    return message.SerializeToString()


def _messages(value) -> list:
    if hasattr(value, "ListFields"):
        return [value]
    if hasattr(value, "GetEntryClass"):  # a map
        return [one for one in value.values() if hasattr(one, "ListFields")]
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        return []
    return [one for one in value if hasattr(one, "ListFields")]


def _change_field(holder, field, value, rng: random.Random) -> None:
    if rng.random() < 0.15:
        holder.ClearField(field.name)
        return
    try:
        if hasattr(value, "GetEntryClass"):
            for key in list(value)[:1]:
                del value[key]
        elif hasattr(value, "ListFields"):
            value.Clear()
        elif isinstance(value, str | bytes):
            other = str(nasty(rng))[:2_000].encode("utf-8", "replace")
            setattr(holder, field.name, other if isinstance(value, bytes) else other.decode())
        elif isinstance(value, bool | int | float):
            setattr(holder, field.name, rng.choice((0, 1, -1, value + 1, 2**31 - 1, -(2**31), 2**62)))
        elif rng.random() < 0.5:
            del value[rng.randrange(len(value))]
        elif hasattr(value[0], "ListFields"):
            value.add().CopyFrom(rng.choice(value))
        else:
            value.extend([rng.choice(value)] * rng.choice((1, 10, 1000)))
    except (ValueError, TypeError, OverflowError):  # not a value of this field
        holder.ClearField(field.name)


def npy_of(content: bytes, rng: random.Random) -> bytes:
    """An array file with another header, whose length is right, or other bytes."""
    if rng.random() < 0.4:
        return bytes_of(content, rng)
    size = struct.unpack("<H", content[8:10])[0]
    header, rest = content[10 : 10 + size].decode("latin1"), content[10 + size :]
    other = {
        r"\(.*?\)": ("(-1, 3)", "(99999999999999, 3)", "(3,)", "()", "(2**9, 3)", "('a',)", "None", "((((1,),),),)",
                     f"({'9,' * 300})", "(True, 3)", "(0, 3)", "(4611686018427387904, 4)"),
        r"'[<|>=][a-z]\d+'": ("'|O'", "'<U9'", "'<f2'", "'<M8[ns]'", "'<c16'", "'|V12'", "[('a', '<f4')]", "'|S4'", "1",
                              "'<f4, <i4'", "'|b1'", "'<f16'", "'zz'"),
        r"False|True": ("True", "1", "[]", "__import__('os').system('true')", f"open('{CANARY}/secret')"),
    }  # fmt: skip
    pattern = rng.choice(list(other))
    header = re.sub(pattern, lambda _: rng.choice(other[pattern]), header, count=1)
    if rng.random() < 0.1:
        header = rng.choice(("(" * 5_000, "{" * 300, "", header * 3, "{'descr': '<f4'}"))
    written = header.encode("latin1")
    return content[:8] + struct.pack("<H", len(written) & 0xFFFF) + written + rest


def csv_of(content: bytes, rng: random.Random) -> bytes:
    """A table with other cells, longer or shorter rows, quotes that do not end, or other bytes."""
    if rng.random() < 0.4:
        return bytes_of(content, rng)
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(rng.choice((1, 2, 5))):
        row = rng.choice(rows)
        if not row:
            continue
        at = rng.randrange(len(row))
        what = rng.randrange(4)
        if what == 0:
            row[at] = str(nasty(rng))[:5_000]
        elif what == 1:
            row[at] = rng.choice(('"', '"a', "1e999", "0x10", "1_000", "nan", "\x00", "=cmd()", "9" * 5_000, "\u0663"))
        elif what == 2:
            row += row
        else:
            del row[at]
    return "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass")


def records_of(content: bytes, example: Any, frame: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """A TFRecord file with a changed Example whose checksums are right, or other bytes.

    Args:
        example: an empty `tf.train.Example`.
        frame: a record's bytes with length and checksums.
    """
    if rng.random() < 0.4:
        return bytes_of(content, rng)
    made, at = b"", 0
    while at < len(content):
        (size,) = struct.unpack("<Q", content[at : at + 8])
        data = content[at + 12 : at + 12 + size]
        at += 16 + size
        example.Clear()
        made += frame(message_of(data, example, rng) if rng.random() < 0.5 else data)
    return made


def table_of(table: Any, rng: random.Random) -> None:
    """One field of an unpacked flatbuffer is another, at any depth; in place."""
    holder: Any = table
    for _ in range(rng.choice((2, 3, 4, 5, 6))):
        inner = [value for value in vars(holder).values() if hasattr(value, "__dict__")]
        lists = [v for v in vars(holder).values() if isinstance(v, list) and v and hasattr(v[0], "__dict__")]
        if not inner and not lists:
            break
        holder = rng.choice(inner + [rng.choice(one) for one in lists for _ in range(3)])
    name = rng.choice(list(vars(holder)))
    value = getattr(holder, name)
    if value is None or hasattr(value, "__dict__") or rng.random() < 0.1:
        setattr(holder, name, None)
    elif isinstance(value, bool):
        setattr(holder, name, not value)
    elif isinstance(value, int):
        setattr(holder, name, rng.choice((0, 1, 2, 100, 127, -1, value + 1, max(value - 1, 0))))
    elif isinstance(value, float):
        setattr(holder, name, rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e-40)))
    elif isinstance(value, bytes | str):
        setattr(holder, name, str(nasty(rng))[:500].encode("utf-8", "replace"))
    elif isinstance(value, list) and value and hasattr(value[0], "__dict__"):
        value.extend([rng.choice(value)] * rng.choice((1, 5))) if rng.random() < 0.5 else value.pop()
    else:
        try:
            numbers = [v.item() if hasattr(v, "item") else v for v in value]
            if numbers:
                other = rng.choice((0, -1, 1, 1 << 20, 2**31 - 1))
                numbers[rng.randrange(len(numbers))] = other if isinstance(numbers[0], int) else float(other)
            if rng.random() < 0.3:
                numbers = numbers[:-1]
            setattr(holder, name, type(value)(numbers) if isinstance(value, list) else _like(value, numbers))
        except (TypeError, ValueError, OverflowError):
            setattr(holder, name, None)


def _like(value, numbers):
    import numpy as np

    with np.errstate(all="ignore"):
        return np.array(numbers).astype(value.dtype)
