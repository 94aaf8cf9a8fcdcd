"""Metadata in a `.tflite` file by TensorFlow Lite's schema, with label files: written, and read back.

Runtimes that do not know it pass it over; MediaPipe's tasks, Netron and Model Explorer read it.
"""

import dataclasses
import io
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfstruct.arguments import require_one_of
from tfstruct.convert import file_notes, flatbuffer, metadata_schema
from tfstruct.convert.ports import BETWEEN, Port, function_graphs, ports_of
from tfstruct.convert.verification import read_content
from tfstruct.errors import ArgumentError, ConversionError, DataError

NOTE = "TFLITE_METADATA"
OF_MODEL = ("name", "description", "version", "author", "license")
_LABELS_OF_AXIS = 2
_COLORS = {3: 1, 1: 2}  # channels -> RGB, grayscale
_MOST_LABELS = 16 << 20  # bytes
_SHOWN = 8
PARSER = "1.0.0"
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, KeyError)
_VALID_LABELS = re.compile(r"[^\n\r\x00]*")


@dataclasses.dataclass(frozen=True)
class PortMetadata:
    """What is said of an input or output.

    Attributes:
        description: what it holds.
        content: `"image"` or `"feature"`; by default an input of rank 4 with 1 or 3 channels is an image.
        mean, std: what who feeds an input does first, (x - mean) / std, one number for all or one a channel; on the
            way to what the model takes, as `Preprocess` does it.
        labels: the names of the columns of an output's last axis.

    Raises:
        ArgumentError: a mean without a standard deviation, another content, or a label of several lines.

    Example:
        >>> tfstruct.convert.PortMetadata("a picture", mean=127.5, std=127.5).std
        (127.5,)
    """

    description: str = ""
    content: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self):
        if self.content:
            require_one_of("content", self.content, ("image", "feature"), error=ArgumentError)
        for name in ("mean", "std", "labels"):
            given = getattr(self, name)
            object.__setattr__(self, name, tuple(given) if isinstance(given, Sequence) else (given,))
        if bool(self.mean) != bool(self.std) or any(not s > 0 for s in self.std):
            raise ArgumentError(f"`mean` and `std` go together, std > 0. Received: {self.mean} and {self.std}.")
        for label in self.labels:
            if not isinstance(label, str) or not _VALID_LABELS.fullmatch(label):
                raise ArgumentError(f"`labels` are texts of one line. Received: {label!r}.")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file says of itself.

    Attributes:
        name, description, version, author, license: of the model.
        inputs, outputs: what is said of each, by name: a `PortMetadata`, or its fields as a dict.

    Example:
        >>> about = tfstruct.convert.Metadata(author="me", outputs={"scores": {"labels": ["cat", "dog"]}})
        >>> about.outputs["scores"].labels
        ('cat', 'dog')
    """

    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for side in ("inputs", "outputs"):
            given = {k: v if isinstance(v, PortMetadata) else PortMetadata(**v) for k, v in getattr(self, side).items()}
            object.__setattr__(self, side, given)

    def rows(self) -> list[tuple[str, str]]:
        """What is said, as (what, value) lines."""
        own = {name: getattr(self, name) for name in OF_MODEL}
        rows = [(name, value) for name, value in own.items() if value]
        for side, ports in (("input", self.inputs), ("output", self.outputs)):
            for name, port in ports.items():
                said = [port.description, port.content]
                if port.mean and (set(port.mean), set(port.std)) != ({0.0}, {1.0}):
                    mean, std = (", ".join(f"{v:.6g}" for v in values) for values in (port.mean, port.std))
                    said.append(f"normalized: (x - {mean}) / {std}")
                if port.labels:
                    more = ", ..." if len(port.labels) > _SHOWN else ""
                    said.append(f"{len(port.labels)} labels: {', '.join(port.labels[:_SHOWN])}{more}")
                rows.append((f"about {side} {name}", "; ".join(filter(None, said))))
        return rows

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The labels of each output that has some."""
        return {name: one.labels for name, one in self.outputs.items() if one.labels}


def read_labels(path: str | os.PathLike) -> tuple[str, ...]:
    """The labels of a text file, one a line.

    Raises:
        DataError: no such file, one too large, or no UTF-8 text.
    """
    try:
        if os.path.getsize(path) > _MOST_LABELS:
            raise DataError(f"The labels in {os.fspath(path)} take more than {_MOST_LABELS:,} bytes.")
        lines = _lines(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Cannot read the labels in {os.fspath(path)}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise DataError(f"The labels in {os.fspath(path)} are no UTF-8 text. Expected one label a line.") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(lines)


def _lines(text: str) -> list[str]:
    """Its lines; Python's own end at separators too that a label may hold."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    return lines.split("\n") if text else []


def write_metadata(content: bytes, about: Metadata) -> bytes:
    """A file with metadata, in place of what it had: a note in the file, and labels in a zip archive behind it.

    Args:
        content: a `.tflite` file.
        about: what it shall say of itself. Names of inputs and outputs are always noted.

    Returns:
        The bytes of the new file.

    Raises:
        ArgumentError: an input or output that the file does not have, or labels that do not fit an output.
        ConversionError: no `.tflite` file.

    Example:
        >>> lite = tfstruct.to_tflite(model, "float32")
        >>> content = tfstruct.convert.write_metadata(lite.content, tfstruct.convert.Metadata(license="MIT"))
        >>> tfstruct.convert.read_metadata(content).license
        'MIT'
    """
    model = flatbuffer.read(content)
    functions = _functions(content, model)
    for side, given in (("inputs", about.inputs), ("outputs", about.outputs)):
        names = [f"{one.prefix}{port.name}" for one in functions for port in getattr(one, side)]
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ArgumentError(f"The file has no {side[:-1]} {unknown}. It has {names}.")
    files: dict[str, bytes] = {}
    graphs: list[dict] = [{} for _ in range(1 + max(one.graph for one in functions))]
    for one in functions:
        graphs[one.graph] = {
            f"{side[:-1]}_tensor_metadata": [
                _port(p, given.get(f"{one.prefix}{p.name}"), one, side == "inputs", files) for p in getattr(one, side)
            ]
            for side, given in (("inputs", about.inputs), ("outputs", about.outputs))
        }
    own = {name: getattr(about, name) for name in OF_MODEL}
    data = {**{k: v for k, v in own.items() if v}, "subgraph_metadata": graphs, "min_parser_version": PARSER}
    file_notes.write_note(model, NOTE, metadata_schema.write(data))
    return flatbuffer.write(model) + archive(files)


def read_metadata(tflite) -> Metadata | None:
    """What a `.tflite` file says of itself, None where it says nothing.

    Args:
        tflite: a `TFLiteModel`, the bytes of a file, or its path.

    Returns:
        `Metadata`, with every input and output that is described.

    Raises:
        ConversionError: metadata that is damaged.

    Example:
        >>> lite = tfstruct.to_tflite(model, "float32")
        >>> about = tfstruct.convert.Metadata(author="me", license="MIT")
        >>> tfstruct.convert.read_metadata(lite.with_metadata(about)).license
        'MIT'
    """
    content = read_content(tflite)
    note = file_notes.read_note(content, NOTE)
    if note is None:
        return None
    data = tables_of(note)
    graphs = data.get("subgraph_metadata", [])
    sides: dict[str, dict[str, PortMetadata]] = {"inputs": {}, "outputs": {}}
    for one in _functions(content, flatbuffer.read(content)):
        for side, said in sides.items():
            own = graphs[one.graph] if one.graph < len(graphs) else {}
            named = zip(getattr(one, side), own.get(f"{side[:-1]}_tensor_metadata", []), strict=False)
            said.update({f"{one.prefix}{port.name}": _read_port(port, table, content) for port, table in named})
    own = {name: data.get(name, "") for name in OF_MODEL}
    return Metadata(**own, inputs=sides["inputs"], outputs=sides["outputs"])


def tables_of(note: bytes) -> dict:
    """A note of metadata, read.

    Raises:
        ConversionError: it is damaged.
    """
    try:
        return metadata_schema.read(note)
    except ValueError as error:
        raise ConversionError(f"The metadata of the .tflite file cannot be read: {error}.") from None


@dataclasses.dataclass(frozen=True)
class _Function:
    """A graph that metadata are about, with its ports in their order there; `plain` are the inputs by their own scales;
    `prefix` is in front of the names of its ports."""

    graph: int
    prefix: str
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    plain: Sequence[Port]


def _functions(content: bytes, model) -> list[_Function]:
    graphs = function_graphs(content)
    several = len(graphs) > 1
    found = []
    for name, graph in graphs.items() if several else [("", 0)]:
        own = name if several else None
        (inputs, outputs), (plain, _) = ports_of(content, function=own), ports_of(content, of_model=False, function=own)
        sides: list[list[Port]] = []
        for ports, side in ((inputs, "inputs"), (outputs, "outputs")):
            order = [int(i) for i in getattr(model.subgraphs[graph], side)]
            place = {index: number for number, index in enumerate(order)}
            sides.append([*sorted(ports, key=lambda port, at=place: at.get(port.index, len(at)))])  # type: ignore[misc]
        found.append(_Function(graph, f"{name}{BETWEEN}" if several else "", sides[0], sides[1], plain))
    return found


def _port(port: Port, about: PortMetadata | None, function: _Function, is_input: bool, files: dict[str, bytes]) -> dict:
    """The table of an input or output; its labels go into `files`."""
    given = about or PortMetadata()
    is_image = is_input and len(port.shape) == 4 and port.shape[-1] in _COLORS
    kind = given.content or ("image" if is_image else "feature")
    image = "ImageProperties", {"color_space": _COLORS.get(port.shape[-1] or 0, 0) if port.shape else 0}
    table: dict = {
        "name": port.name,
        "content": {"content_properties": image if kind == "image" else ("FeatureProperties", {})},
    }
    if given.description:
        table["description"] = given.description
    if is_input:
        mean, std = _normalization(port, given, function.plain)
        table["process_units"] = [{"options": ("NormalizationOptions", {"mean": mean, "std": std})}]
    if given.labels:
        width = port.shape[-1] if port.shape else 1
        if width is not None and len(given.labels) != width:
            raise ArgumentError(
                f"Output {port.name!r} has {width} columns. Received {len(given.labels)} labels: expected one a column."
            )
        name = re.sub(r"[^\w.-]", "_", f"{function.prefix}{port.name}") + "_labels.txt"
        while name in files:
            name = f"_{name}"
        files[name] = "".join(f"{label}\n" for label in given.labels).encode()
        table["associated_files"] = [{"name": name, "type": _LABELS_OF_AXIS}]
    return table


def _normalization(port: Port, given: PortMetadata, inputs: Sequence[Port]) -> tuple[list[float], list[float]]:
    """(mean, std) from what a user has to what the file's own scale is of, which may stand behind preprocessing."""
    mean, std = list(given.mean or (0.0,)), list(given.std or (1.0,))
    plain = next(one for one in inputs if one.index == port.index)
    if plain == port or not port.scale:
        return mean, std
    factor = plain.scale / port.scale
    offset = plain.scale * (port.zero_point - plain.zero_point)  # value = factor * x + offset
    size = max(len(mean), len(std))
    mean, std = mean * (size // len(mean)), std * (size // len(std))
    return [m - s * offset / factor for m, s in zip(mean, std, strict=True)], [s / factor for s in std]


def _read_port(port: Port, table: dict, content: bytes) -> PortMetadata:
    kind, _ = table.get("content", {}).get("content_properties", ("", {}))
    units = [unit["options"] for unit in table.get("process_units", []) if "options" in unit]
    normalization: dict = next((options for kind, options in units if kind == "NormalizationOptions"), {})
    labels: tuple[str, ...] = ()
    for file in table.get("associated_files", []):
        if file.get("type") == _LABELS_OF_AXIS and not labels:
            labels = tuple(_lines(read_archived(content, file.get("name", "")).decode()))
    mean, std = tuple(normalization.get("mean", ())), tuple(normalization.get("std", ()))
    try:
        return PortMetadata(
            table.get("description", ""),
            {"ImageProperties": "image", "FeatureProperties": "feature"}.get(kind, ""),
            mean,
            std,
            labels,
        )
    except ArgumentError as error:
        raise ConversionError(f"The metadata of {port.name!r} cannot be used: {error}") from None


def archive(files: Mapping[str, bytes]) -> bytes:
    """Files as runtimes map them from behind a model: a zip archive, stored as they are."""
    if not files:
        return b""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as written:
        for name, data in files.items():
            written.writestr(zipfile.ZipInfo(name), data)  # of one date, so that equal files are equal
    return out.getvalue()


def read_archived(content: bytes, name: str) -> bytes:
    """A file from the archive behind a model.

    Raises:
        ConversionError: there is none of that name, or it is damaged or too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(name) as file:
            text = file.read(_MOST_LABELS + 1)
        if len(text) > _MOST_LABELS:
            raise ValueError(f"it has more than {_MOST_LABELS:,} bytes")
        text.decode()
        return text
    except _DAMAGED as error:
        raise ConversionError(f"The file {name!r} in the .tflite file cannot be read: {error}.") from None
