"""What sharing and sparsity give on disk: by tensor, and of the whole file."""

import dataclasses
from typing import ClassVar

from tfstruct.reporting import Plotted, Report, Sheet


@dataclasses.dataclass(frozen=True)
class PackedTensor:
    """A weight, or a constant of a file.

    Attributes:
        name: the layer's path and the weight's name.
        distinct: how many different values it has, -0.0 and 0.0 apart.
        zeros: how many are zero.
        entropy: bits an element, of its values one by one: -sum p log2 p. No code of single values takes fewer.
        raw: bytes as stored.
        huffman: bytes of Huffman codes with their table, a value and a byte for each distinct value; None where there
            are more than 4,096.
        lookup: bytes as indices with tables, as tflite-micro decodes them; None where it does not.
        packed: bytes in the container.
        code: how they are coded there.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    distinct: int
    zeros: int
    entropy: float
    raw: int
    huffman: int | None
    lookup: int | None
    packed: int
    code: str


@dataclasses.dataclass(frozen=True)
class PackReport(Plotted, Report):
    """The sizes of a model, in bytes. `plot` draws those of the whole, and bits an element by tensor.

    Attributes:
        model: its name.
        kind: `"keras"` or `"tflite"`.
        tensors: one row for each array.
        file: the `.keras` archive or the `.tflite` file.
        gzip: the file after gzip -9.
        zstd: after zstd -19; None where zstandard is not installed.
        huffman: the file with Huffman codes in place of the tensors that they make smaller.
        lookup: the `.tflite` file with lookup tables in place of the kernels that they make smaller, as tflite-micro
            reads them, without the operators that decode: `compress_for_micro` writes the file. None for a Keras model.
        packed: the container.
        compressor: what it uses besides its own codes, `"zstd"` or `"lzma"`.
    """

    model: str
    kind: str
    tensors: tuple[PackedTensor, ...]
    file: int
    gzip: int
    zstd: int | None
    huffman: int
    lookup: int | None
    packed: int
    compressor: str

    _panels: ClassVar[int] = 2

    def totals(self) -> dict[str, int]:
        """Bytes by what was done to the file; without what is not known."""
        found = {
            "file": self.file,
            "gzip -9": self.gzip,
            "zstd -19": self.zstd,
            "Huffman codes": self.huffman,
            "lookup tables": self.lookup,
            "packed": self.packed,
        }
        return {name: size for name, size in found.items() if size is not None}

    def sheet(self) -> Sheet:
        title = f"{self.model} ({self.kind}): {self.file:,} bytes, {self.packed:,} packed"
        table = [("lookup tables", ",d")] if self.lookup is not None else []
        sizes = [("as stored", ",d"), ("Huffman codes", ",d"), *table, ("packed", ",d")]
        columns = ["tensor", "type", ("elements", ",d"), ("distinct", ",d"), ("zeros", ".1%"), ("bits", ".2f"), *sizes]
        blank = [""] * (len(columns) - 2)
        rows: list[tuple] = []
        for row in self.tensors:
            lookup = [row.lookup] if table else []
            share = row.zeros / max(row.elements, 1)
            figures = (row.elements, row.distinct, share, row.entropy, row.raw, row.huffman, *lookup, row.packed)
            rows.append((row.name, row.dtype, *figures, row.code))
        rest = self.packed - sum(row.packed for row in self.tensors)
        rows.append(("description, names, scales", *blank, rest, ""))
        totals = self.totals().items()
        rows += [(f"all: {name}", *blank, size, f"{size / self.file:.1%} of the file") for name, size in totals]
        marks = {len(rows) - 1 - i: "strong" for i in range(len(totals))}
        return Sheet(title, (*columns, "code"), rows, marks=marks)

    def _size(self) -> tuple[float, float]:
        return 9, 1 + 0.25 * max(len(self.tensors), 8)

    def _draw(self, whole, single) -> None:
        totals = self.totals()
        whole.barh(list(totals)[::-1], list(totals.values())[::-1])
        whole.set(xlabel="bytes")
        rows = self.tensors[::-1]
        for label, height, sizes in (("stored", 0.8, [r.raw for r in rows]), ("packed", 0.5, [r.packed for r in rows])):
            bits = [8 * s / max(r.elements, 1) for s, r in zip(sizes, rows, strict=True)]
            single.barh([r.name for r in rows], bits, height=height, label=label)
        single.set(xlabel="bits an element")
        single.legend()
