"""What sharing and sparsity give on disk: by tensor, and of the whole file."""

import dataclasses
import json


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
class PackReport:
    """The sizes of a model, in bytes.

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

    def _title(self) -> str:
        return f"{self.model} ({self.kind}): {self.file:,} bytes, {self.packed:,} packed"

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.tensors), default=0)
        lines = [self._title()]
        lines += [f"  {name:<14}{size:>12,}  {size / self.file:7.1%}" for name, size in self.totals().items()]
        for row in self.tensors:
            lines.append(
                f"  {row.name:<{width}}  {row.dtype:>8} {row.raw:>11,} -> {row.packed:>11,}  {row.distinct:,} values, "
                f"{row.zeros / max(row.elements, 1):.0%} zero, {row.entropy:.2f} bits: {row.code}"
            )
        return "\n".join(lines)

    def table(self):
        """A rich table, one row for each tensor, and the sizes of the whole below."""
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left")
        table.add_column("tensor", no_wrap=True)
        columns = ["elements", "distinct", "zero", "bits", "raw", "Huffman"]
        columns += ["lookup"] if self.lookup is not None else []
        for name in (*columns, "packed"):
            table.add_column(name, justify="right")
        table.add_column("code")
        for row in self.tensors:
            sizes = [row.raw, row.huffman, *([row.lookup] if self.lookup is not None else []), row.packed]
            table.add_row(
                f"{row.name} ({row.dtype})",
                f"{row.elements:,}",
                f"{row.distinct:,}",
                f"{row.zeros / max(row.elements, 1):.1%}",
                f"{row.entropy:.2f}",
                *("-" if size is None else f"{size:,}" for size in sizes),
                row.code,
            )
        rest = self.packed - sum(row.packed for row in self.tensors)
        table.add_row("description, names, scales", *[""] * len(columns), f"{rest:,}", end_section=True)
        for name, size in self.totals().items():
            table.add_row(f"all: {name}", *[""] * len(columns), f"{size:,}", f"{size / self.file:.1%}")
        return table

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def plot(self):
        """A matplotlib figure: bytes of the whole by what was done to it, and bits by tensor, stored and packed."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, max(3, 0.25 * len(self.tensors))), layout="constrained")
        whole, single = figure.subplots(1, 2)
        totals = self.totals()
        whole.barh(list(totals)[::-1], list(totals.values())[::-1])
        whole.set(xlabel="bytes")
        rows = self.tensors[::-1]
        for label, sizes in (("stored", [r.raw for r in rows]), ("packed", [r.packed for r in rows])):
            single.barh(
                [r.name for r in rows],
                [8 * s / max(r.elements, 1) for s, r in zip(sizes, rows, strict=True)],
                label=label,
            )
        single.set(xlabel="bits an element")
        single.legend()
        return figure
