"""Metadata of files that become functions of one, and back: the tables of each graph, and the label files behind."""

from collections.abc import Iterator, Mapping

from tfstruct.convert import file_notes, flatbuffer, metadata, metadata_schema

Files = dict[str, bytes]


def joined(contents: Mapping[str, bytes]) -> tuple[dict, Files] | None:
    """The metadata of several files as that of one whose graphs are theirs, and its label files; None where none has
    any. Texts about the model stand there once each.

    Args:
        contents: name of the function -> its file.
    """
    found = {name: data for name, content in contents.items() if (data := read(content)) is not None}
    if not found:
        return None
    graphs: list[dict] = []
    files: Files = {}
    for name, content in contents.items():
        tables: dict = next(iter(found.get(name, {}).get("subgraph_metadata", [])), {})
        for entry in _files_of(tables):
            text = metadata.read_archived(content, entry["name"])
            if files.get(entry["name"], text) != text:
                entry["name"] = f"{name}_{entry['name']}"
            files[entry["name"]] = text
        graphs.append(tables)
    texts = {
        field: "; ".join(dict.fromkeys(data[field] for data in found.values() if data.get(field)))
        for field in metadata.OF_MODEL
    }
    newest = max((data.get("min_parser_version", metadata.PARSER) for data in found.values()), key=_numbers)
    whole = {**{k: v for k, v in texts.items() if v}, "subgraph_metadata": graphs, "min_parser_version": newest}
    return whole, files


def taken(content: bytes, graph: int) -> tuple[dict, Files] | None:
    """The metadata of one graph of a file, and its label files."""
    data = read(content)
    if data is None:
        return None
    tables = data.get("subgraph_metadata", [])[graph : graph + 1]
    files = {e["name"]: metadata.read_archived(content, e["name"]) for one in tables for e in _files_of(one)}
    return {**data, "subgraph_metadata": tables}, files


def read(content: bytes) -> dict | None:
    """The tables of a file's metadata; None where it has none.

    Raises:
        ConversionError: they are damaged.
    """
    note = file_notes.read_note(content, metadata.NOTE)
    return None if note is None else metadata.tables_of(note)


def write(model: flatbuffer.schema.ModelT, about: tuple[dict, Files] | None) -> bytes:
    """The bytes of a file that is edited, with tables and label files, if any."""
    if about is None:
        return flatbuffer.write(model)
    data, files = about
    file_notes.write_note(model, metadata.NOTE, metadata_schema.write(data))
    return flatbuffer.write(model) + metadata.archive(files)


def _files_of(tables: dict) -> Iterator[dict]:
    for side in ("input", "output"):
        for table in tables.get(f"{side}_tensor_metadata", []):
            yield from (entry for entry in table.get("associated_files", []) if entry.get("name"))


def _numbers(version: str) -> list[int]:
    return [int(n) for n in version.split(".") if n.isdigit()]
