"""Keras models and `.tflite` files in the fewest bytes, and back."""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator

import keras
import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.packing import arrays, container, huffman, keras_archive, lookup_tables, tflite_buffers
from tfstruct.convert.packing.report import PackedTensor, PackReport
from tfstruct.convert.signature_file import SignatureFile
from tfstruct.convert.tflite_model import TFLiteModel
from tfstruct.errors import ModelError
from tfstruct.files import gzip_size, write_atomic
from tfstruct.graph.keras_model import require_model


class Packed:
    """A packed model.

    Attributes:
        content: the bytes of the container, for `unpack`.
    """

    def __init__(self, content: bytes, measure: Callable[[], PackReport]):
        self.content, self._measure = content, measure

    @functools.cached_property
    def report(self) -> PackReport:
        """What made it small. Measured when first asked for: gzip and zstd at these levels take a second a megabyte."""
        return self._measure()

    def save(self, path: str | os.PathLike) -> None:
        """Writes the container, by custom a `.tfpack` file: whole or not at all."""
        write_atomic(path, self.content)

    def __repr__(self) -> str:
        return f"Packed({len(self.content):,} bytes)"


def pack(model, *, optimizer: bool = False) -> Packed:
    """Packs a model for transport, without loss, and says what sharing and sparsity give on disk.

    Each weight takes the code that makes it smallest: its distinct values with indices, Huffman codes, distances
    between the items that are not zero, or its bytes through zstd (tfstruct[pack]; LZMA without it). Bit patterns are
    coded, not numbers: NaN, -0.0 and every dtype come back as they were. Of a Keras model everything comes along that
    `model.save` writes; the states of random generators are not among it.

    Args:
        model: a Keras model, a `TFLiteModel` or `SignatureFile`, or the bytes or the path of a `.tflite` file.
        optimizer: whether a compiled Keras model keeps what `compile` was given and the state of its optimizer;
            otherwise the model that comes back is not compiled.

    Returns:
        The container with its report; `unpack` restores the model.

    Raises:
        ModelError: something else, or a model that Keras cannot save.
        ConversionError: bytes that are no `.tflite` file.

    Example:
        >>> packed = tfstruct.pack(model)
        >>> again = tfstruct.unpack(packed)
        >>> np.array_equal(again(x), model(x))
        True
    """
    if isinstance(model, str | os.PathLike):
        return _pack_tflite(_tflite_file(pathlib.Path(model)), pathlib.Path(model).name)
    if isinstance(model, TFLiteModel | SignatureFile):
        return _pack_tflite(model.content, model.report.model)
    if isinstance(model, bytes | bytearray):
        return _pack_tflite(bytes(model), "model")
    what = "a keras.Model, a TFLiteModel, or the bytes or path of a .tflite file"
    return _pack_keras(require_model(model, what), optimizer)


def unpack(source, *, trust: bool = False) -> keras.Model | bytes:
    """The model that was packed, bit by bit: a Keras model, or the bytes of a `.tflite` file.

    No code from the container runs: a Keras model is rebuilt from its configuration, of Keras's classes and registered
    ones. (Models with classes of tfstruct load after `import tfstruct.layers` and so on.)

    Args:
        source: a `Packed`, its bytes, or the path of the file.
        trust: let a Keras model run the code in it, of Lambda layers.

    Returns:
        A `keras.Model`, or the bytes of a `.tflite` file.

    Raises:
        ModelError: no container, a damaged one or one cut short, one that would take far more memory than a model of
            its size, or a model that Keras cannot load.

    Example:
        >>> tfstruct.pack(model).save("model.packed")
        >>> tfstruct.unpack("model.packed").count_params() == model.count_params()
        True
    """
    content, name = _content(source)
    description, stream = container.read(content, name)
    parts = list(stream)
    try:
        kind, layout = description["kind"], description["layout"]
        restored = {"keras": keras_archive, "tflite": tflite_buffers}[kind].put_together(layout, parts)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OSError, RuntimeError) as error:
        raise container.malformed(name, error) from None
    return keras_archive.loaded(restored, name, trust) if kind == "keras" else restored


def _content(source) -> tuple[bytes, str]:
    if isinstance(source, Packed):
        return source.content, "The container"
    if isinstance(source, bytes | bytearray):
        return bytes(source), "The container"
    if isinstance(source, str | os.PathLike):
        return _read(pathlib.Path(source)), str(source)
    raise ModelError(f"Expected a Packed, its bytes or a path. Received: {type(source).__name__}.")


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}.") from None


def _tflite_file(path: pathlib.Path) -> bytes:
    if path.suffix != ".tflite":
        raise ModelError(
            f"Expected the path of a .tflite file. Received: {path}. Load a Keras model first: "
            "pack(tfstruct.legacy.load(path))."
        )
    return _read(path)


def _pack_keras(model: keras.Model, optimizer: bool) -> Packed:
    if not model.built:
        raise ModelError(f"{model.name!r} has no weights yet. Call it once on a batch of data, or build it.")
    layout, parts = keras_archive.take_apart(keras_archive.saved(model), optimizer)
    content, coded = _container("keras", layout, parts)
    datasets = layout["weights"]["datasets"] if layout["weights"] else []
    names = keras_archive.weight_names(layout["weights"], model) if datasets else []
    title = model.name

    def measure() -> PackReport:
        rows = []
        for name, (_, dtype, shape, marks), part, code in zip(names, datasets, parts, coded, strict=False):
            rows.append(_row(name, marks.get("dtype") or np.dtype(dtype).name, tuple(shape), part, code))
        return _report(title, "keras", rows, keras_archive.put_together(layout, parts), content)

    return Packed(content, measure)


def _pack_tflite(file: bytes, name: str) -> Packed:
    layout, parts = tflite_buffers.take_apart(file)
    content, coded = _container("tflite", layout, parts)
    return Packed(content, lambda: _report(name, "tflite", list(_tflite_rows(file, parts, coded)), file, content))


def _container(kind: str, layout: dict, parts: list[np.ndarray]) -> tuple[bytes, list[arrays.Coded]]:
    coded = [arrays.encode(part) for part in parts]
    return container.write({"kind": kind, "layout": layout}, [one.content for one in coded]), coded


def _tflite_rows(file: bytes, parts, coded) -> Iterator[PackedTensor]:
    model = flatbuffer.read(file)
    places = tflite_buffers.array_of(file)
    kernels = lookup_tables.kernels(model)
    for number, graph in enumerate(model.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            place = places.pop(tensor.buffer, None)  # tensors with one buffer are one row
            if place is None:
                continue
            lookup, dtype = None, flatbuffer.dtype_name(tensor)
            if (number, index) in kernels:
                lookup = lookup_tables.table_bytes(kernels[number, index], lookup_tables.table_axis(tensor))
            shape = () if tensor.shape is None else tuple(map(int, tensor.shape))
            yield _row(tensor.name.decode(), dtype, shape, parts[place], coded[place], lookup)


def _row(name, dtype, shape, part: np.ndarray, code: arrays.Coded, lookup: int | None = None) -> PackedTensor:
    elements = int(np.prod(shape))
    values = flatbuffer.nibbles(part, elements) if dtype in ("int4", "uint4") else part
    table, counts = np.unique(values, return_counts=True)
    share = counts / max(values.size, 1)
    coded = None
    if len(table) <= huffman.LARGEST_ALPHABET:
        bits = int(huffman.code_lengths(counts) @ counts)
        coded = -(-bits // 8) + len(table) * (values.itemsize + 1)
    return PackedTensor(
        name=name,
        dtype=dtype,
        shape=shape,
        elements=elements,
        distinct=len(table),
        zeros=int(counts[table == 0].sum()),
        entropy=float(-share @ np.log2(share)) + 0.0,
        raw=part.nbytes,
        huffman=coded,
        lookup=lookup,
        packed=len(code.content),
        code=code.how,
    )


def _report(name: str, kind: str, rows: list[PackedTensor], file: bytes, packed: bytes) -> PackReport:
    def saving(sizes) -> int:
        return sum(row.raw - min(row.raw, size) for row, size in zip(rows, sizes, strict=True) if size is not None)

    return PackReport(
        model=name,
        kind=kind,
        tensors=tuple(rows),
        file=len(file),
        gzip=gzip_size(file),
        zstd=arrays.zstd_size(file),
        huffman=len(file) - saving([row.huffman for row in rows]),
        lookup=len(file) - saving([row.lookup for row in rows]) if kind == "tflite" else None,
        packed=len(packed),
        compressor=arrays.squeezer(),
    )
