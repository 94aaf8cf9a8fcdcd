"""Reads .npy files by memory map and .npz files block by block; nothing is unpickled."""

import contextlib
import math
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from tfstruct.errors import DataError, one_line
from tfstruct.samples.rows import MAX_ROW, Inputs, LabelKey, Reader, Row, match_keys, only_input, same_count

MAX_SPOOL = 4 * 2**30  # bytes of a Fortran-ordered member that are copied to a temporary file
MAX_LABELS = 100_000_000  # entries of a label array, which is held in memory
HARMLESS, LARGEST_RATIO = 2**28, 100  # bytes of a zip member that may be packed to any size; what others may grow by
BLOCK = 2**18  # bytes read from a zip member at once


def read_npy(path: Path, inputs: Inputs, labels: LabelKey) -> Reader:
    """Opens an .npy file with the data of the only input."""
    spec = only_input(inputs, labels, str(path))
    with path.open("rb") as stream:
        header = _read_header(stream, str(path), path.stat().st_size)

    def rows() -> Iterator[Row]:
        return (Row({spec.name: row}, where=str(path)) for row in _mapped(path, header))

    return Reader(str(path), header.shape[0], rows)


def read_npy_labels(path: Path) -> np.ndarray:
    """Loads an array with one label a row."""
    with path.open("rb") as stream:
        return _load_labels(stream, _read_header(stream, str(path), path.stat().st_size))


def read_npz(path: Path, inputs: Inputs, labels: LabelKey) -> Reader:
    """Opens an .npz archive with an array an input, and one of labels, which is loaded."""
    targets = None
    with _zip_errors(path), zipfile.ZipFile(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        matched, label_key = match_keys(keys, inputs, labels, str(path))
        counts = {}
        for key in matched.values():
            with _member(archive, key, path) as (_, header):
                counts[key] = header.shape[0]
        if label_key is not None:
            with _member(archive, label_key, path) as (stream, header):
                targets = _load_labels(stream, header)
                counts[label_key] = len(targets)

    def rows() -> Iterator[Row]:
        with _zip_errors(path), zipfile.ZipFile(path) as archive:
            columns = [_member_rows(archive, key, path) for key in matched.values()]
            for index, values in enumerate(zip(*columns, strict=True)):
                label = None if targets is None else targets[index]
                yield Row(dict(zip(matched, values, strict=True)), label, str(path))

    return Reader(f"{path} ({', '.join(matched.values())})", same_count(counts, str(path)), rows)


class _Header(NamedTuple):
    where: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    offset: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.row_bytes


def _read_header(stream: IO[bytes], where: str, size: int) -> _Header:
    """Reads and checks the header of an array of `size` bytes; the stream then stands at the values."""
    try:
        version = np.lib.format.read_magic(stream)
        read = getattr(np.lib.format, "read_array_header_{}_{}".format(*version))
        shape, fortran, dtype = read(stream)
    except (zipfile.BadZipFile, zlib.error):  # a damaged archive, which is said of the archive
        raise
    # Any error: the header is text of strangers that NumPy parses, and it fails in many ways.
    except Exception as error:
        raise DataError(
            f"{where}: expected a NumPy array, received something else ({one_line(error)}). Save it again with np.save "
            "or np.savez."
        ) from error
    if any(type(length) is not int for length in shape):  # NumPy reads (True, 3) too
        raise DataError(f"{where}: expected a shape of whole numbers, received {shape}. Save it again with np.save.")
    if dtype.kind not in "biuf":
        raise DataError(
            f"{where}: expected an array of numbers, received dtype {dtype}. Objects would have to be unpickled, which "
            "can run code: save plain numbers instead."
        )
    if not shape:
        raise DataError(f"{where}: expected a batch axis first, received a single value. Save an array of samples.")
    header = _Header(where, shape, fortran and len(shape) > 1, dtype, stream.tell())
    if shape[0] < 0 or min(shape[1:], default=1) < 1 or header.row_bytes > MAX_ROW:
        raise DataError(
            f"{where}: expected samples of at most {MAX_ROW} bytes, received shape {shape} of {dtype}. Put the batch "
            "axis first, or save the file again."
        )
    if header.offset + header.nbytes > size:
        raise DataError(
            f"{where}: expected {header.nbytes} bytes of values, received {size - header.offset}. The file is "
            "truncated: copy or download it again."
        )
    return header


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, key: str, path: Path) -> Iterator[tuple[IO[bytes], _Header]]:
    """One array of an .npz file: a stream that stands at its values, and its header."""
    entry, where = archive.getinfo(f"{key}.npy"), f"'{key}' in {path}"
    if entry.file_size > HARMLESS and entry.file_size > LARGEST_RATIO * entry.compress_size:
        raise DataError(
            f"{where}: {entry.compress_size:,} bytes would become {entry.file_size:,}, as no samples do. Save them "
            "again with np.savez, uncompressed, if you made the file."
        )
    with archive.open(entry) as stream:
        yield stream, _read_header(stream, where, entry.file_size)


@contextlib.contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    # Any error: a damaged archive fails in the unpacker of its kind.
    except Exception as error:
        raise DataError(
            f"{path}: expected an .npz archive, received a damaged or other file ({one_line(error)}). Save it again "
            "with np.savez, or copy it again."
        ) from error


def _load_labels(stream: IO[bytes], header: _Header) -> np.ndarray:
    if math.prod(header.shape) > MAX_LABELS:
        raise DataError(
            f"{header.where}: expected at most {MAX_LABELS} entries of labels, received shape {header.shape}. Give "
            "integer class numbers, or fewer samples."
        )
    data = _exactly(stream, header.nbytes, header.where)
    return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def _mapped(file: Path | IO[bytes], header: _Header) -> np.ndarray:
    return np.memmap(file, header.dtype, "r", header.offset, header.shape, "F" if header.fortran else "C")


def _member_rows(archive: zipfile.ZipFile, key: str, path: Path) -> Iterator[np.ndarray]:
    """Yields the rows of one array of an .npz file, read a block at a time."""
    with _member(archive, key, path) as (stream, header):
        if header.fortran:
            yield from _spooled_rows(stream, header)
            return
        count, *row = header.shape
        block = max(1, BLOCK // header.row_bytes)
        for start in range(0, count, block):
            size = min(block, count - start)
            data = _exactly(stream, size * header.row_bytes, header.where)
            yield from np.frombuffer(data, header.dtype).reshape(size, *row)


def _spooled_rows(stream: IO[bytes], header: _Header) -> Iterator[np.ndarray]:
    """Yields the rows of an array in Fortran order by way of a temporary file.

    A row is strewn over the whole member there, so the member must lie where it can be mapped.
    """
    if header.nbytes > MAX_SPOOL:
        raise DataError(
            f"{header.where}: expected C order or at most {MAX_SPOOL} bytes, received {header.nbytes} in Fortran "
            "order. Save np.ascontiguousarray of it."
        )
    with tempfile.TemporaryFile() as file:
        for start in range(0, header.nbytes, BLOCK):
            file.write(_exactly(stream, min(BLOCK, header.nbytes - start), header.where))
        file.flush()
        yield from _mapped(file, header._replace(offset=0))


def _exactly(stream: IO[bytes], size: int, where: str) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise DataError(f"{where}: expected {size} bytes more, received {len(data)}. Copy the file again.")
    return data
