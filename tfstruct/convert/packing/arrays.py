"""Arrays of bit patterns in the fewest bytes, and back.

A coded array is a letter for the code, the width of its items, their number, and what the code needs:

    r  the items as they are
    z  their bytes through zstd, by significance, so that the exponents of floats lie together
    x  the same through LZMA
    h  Huffman codes: lengths, sizes of the lanes, bits
    p  the distinct values, and for each item which of them it is
    s  the distances from one item other than zero to the next, and those items

Parts of a code are coded arrays themselves. Each array takes the code that makes it smallest.
"""

import lzma
from typing import NamedTuple

import numpy as np

from tfstruct.convert.packing import huffman

_WIDTHS: dict[int, type[np.unsignedinteger]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
# Weights hardly repeat: level 1 of zstd leaves as few bytes of them as level 19, in a hundredth of the time.
_LARGEST_TRIED = 1 << 20
_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
# An array in an array in an array: a palette of sparse gaps in Huffman codes is the deepest that is ever written.
_DEEPEST = 5


class Coded(NamedTuple):
    """The bytes of a coded array, and the names of its codes."""

    content: bytes
    how: str


class Reader:
    """Reads coded arrays one after the other.

    Args:
        content: the bytes.
        room: how many bytes all arrays together may take in memory.
    """

    def __init__(self, content: bytes, room: int):
        self._content, self._place, self._room = memoryview(content), 0, room

    @property
    def done(self) -> bool:
        return self._place == len(self._content)

    def take(self, count: int) -> bytes:
        if count > len(self._content) - self._place:
            raise ValueError("an array ends early")
        self._place += count
        return bytes(self._content[self._place - count : self._place])

    def number(self) -> int:
        """A number below 2^63, 7 bits a byte, the lowest first; the last byte is below 128."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number is too large")

    def limit(self, room: int) -> None:
        """Sets what all arrays from here on may take."""
        self._room = room

    def reserve(self, count: int) -> None:
        """Claims memory before it is used: what a file says of its sizes is not believed without limit."""
        self._room -= count
        if self._room < 0:
            raise ValueError("it would take more memory than any model of its size")


def bit_patterns(content: bytes | np.ndarray, width: int = 1) -> np.ndarray:
    """Bytes or an array as unsigned integers of 1, 2, 4 or 8 bytes; other widths as single bytes."""
    content = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
    fits = width in _WIDTHS and len(content) % width == 0
    return np.frombuffer(content, _WIDTHS[width] if fits else np.uint8)


def encode(values: np.ndarray) -> Coded:
    """The smallest coding of an array of unsigned integers with one axis."""
    found = [_raw(values)]
    if not values.size:
        return found[0]
    table, counts = np.unique(values, return_counts=True)
    few = len(table) <= huffman.LARGEST_ALPHABET
    # A palette of values that are 0, 1, 2, ... already, or of which each is rare, saves nothing.
    spread = few and int(table[-1]) >= len(table) and 2 * len(table) <= len(values)
    if spread:
        indices = np.searchsorted(table, values).astype(_narrowest(len(table) - 1))
        found.append(_palette(values, table, indices))
    sparse = table[0] == 0 and 2 * int(counts[0]) > len(values)
    if sparse:
        found.append(_sparse(values))
    if values.itemsize == 1 or not (
        spread or sparse
    ):  # what repeats there repeats among indices and gaps, in fewer bytes
        found.append(_squeezed(values))
    if few and int(table[-1]) < huffman.LARGEST_ALPHABET:
        found.append(_huffman(values, np.bincount(table.astype(np.int64), counts).astype(np.int64)))
    return min(found, key=lambda coded: len(coded.content))


def decode(reader: Reader, depth: int = 0) -> np.ndarray:
    """The next array.

    Raises:
        ValueError, KeyError, IndexError, lzma.LZMAError, ModuleNotFoundError (zstandard): it is no coded array.
    """
    if depth > _DEEPEST:
        raise ValueError("arrays are nested too deep")
    letter, width, count = reader.take(1), reader.take(1)[0], reader.number()
    dtype = np.dtype(_WIDTHS[width])
    reader.reserve(count * width)
    if letter == b"r":
        values = np.frombuffer(reader.take(count * width), dtype)
    elif letter in (b"z", b"x"):
        unsqueeze = _from_zstd if letter == b"z" else _from_lzma
        planes = np.frombuffer(unsqueeze(reader.take(reader.number()), count * width), np.uint8)
        values = np.ascontiguousarray(planes.reshape(width, count).T).view(dtype).reshape(-1)
    elif letter == b"h":
        lengths, sizes = decode(reader, depth + 1), decode(reader, depth + 1)
        reader.reserve(2 * count)
        values = huffman.decode(reader.take(int(sizes.sum(dtype=np.int64))), sizes, lengths, count).astype(dtype)
    elif letter == b"p":
        table, indices = decode(reader, depth + 1), decode(reader, depth + 1)
        if len(indices) != count:
            raise ValueError("a palette is asked for another number of items")
        values = table.astype(dtype, copy=False)[indices]
    elif letter == b"s":
        gaps, kept = decode(reader, depth + 1), decode(reader, depth + 1)
        reader.reserve(8 * len(gaps))
        places = np.cumsum(gaps, dtype=np.int64) - 1
        if len(places) and (int(gaps.min()) < 1 or int(gaps.max()) > count):
            raise ValueError("distances between items do not fit")
        values = np.zeros(count, dtype)
        values[places] = kept
    else:
        raise ValueError(f"unknown code {letter!r}")
    if len(values) != count:
        raise ValueError("an array has another length than it says")
    return values


def squeezer() -> str:
    """What arrays of bytes are compressed by: zstd where `zstandard` is installed (tfstruct[pack]), otherwise LZMA."""
    try:
        import zstandard  # noqa: F401
    except ModuleNotFoundError:
        return "lzma"
    return "zstd"


def zstd_size(content: bytes) -> int | None:
    """Bytes after `zstd -19`; None where zstandard is not installed."""
    return len(_zstd(content, 19)) if squeezer() == "zstd" else None


def _zstd(content: bytes, *levels: int) -> bytes:
    import zstandard

    return min((zstandard.ZstdCompressor(level=level).compress(content) for level in levels), key=len)


def _from_zstd(content: bytes, size: int) -> bytes:
    import zstandard

    if zstandard.frame_content_size(content) != size:  # which zstd would allocate
        raise ValueError("a zstd frame has another size than its array")
    return zstandard.ZstdDecompressor().decompress(content, max_output_size=size) if size else b""


def _from_lzma(content: bytes, size: int) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA).decompress(content, max_length=size)


def _narrowest(largest: int) -> type[np.unsignedinteger]:
    return next(kind for width, kind in _WIDTHS.items() if largest < 1 << 8 * width)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _head(letter: bytes, values: np.ndarray) -> bytes:
    return letter + bytes([values.itemsize]) + _number(len(values))


def _raw(values: np.ndarray) -> Coded:
    return Coded(_head(b"r", values) + values.tobytes(), "as it is")


def _squeezed(values: np.ndarray) -> Coded:
    planes = values.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()
    if squeezer() == "zstd":
        letter, name = b"z", "zstd"
        squeezed = _zstd(planes, *((1, 19) if len(planes) <= _LARGEST_TRIED else (1,)))
    else:
        letter, name = b"x", "LZMA"
        squeezed = lzma.compress(planes, lzma.FORMAT_RAW, filters=_LZMA)
    return Coded(_head(letter, values) + _number(len(squeezed)) + squeezed, name)


def _plain(values: np.ndarray) -> bytes:
    """For tables: no Huffman codes for the lengths of Huffman codes."""
    return min(_raw(values).content, _squeezed(values).content, key=len) if values.size else _raw(values).content


def _huffman(values: np.ndarray, counts: np.ndarray) -> Coded:
    lengths = huffman.code_lengths(counts)
    bits, sizes = huffman.encode(values, lengths)
    return Coded(_head(b"h", values) + _plain(lengths) + _plain(sizes) + bits, "Huffman")


def _palette(values: np.ndarray, table: np.ndarray, indices: np.ndarray) -> Coded:
    coded = encode(indices)
    return Coded(_head(b"p", values) + _plain(table) + coded.content, f"palette, {coded.how}")


def _sparse(values: np.ndarray) -> Coded:
    places = np.flatnonzero(values)
    gaps = np.diff(places, prepend=-1)
    coded_gaps = encode(gaps.astype(_narrowest(int(gaps.max(initial=1)))))
    kept = encode(values[places])
    return Coded(_head(b"s", values) + coded_gaps.content + kept.content, f"sparse, {kept.how}")
