"""Several functions in one `.tflite` file: a subgraph and a signature each; equal constants are stored once."""

import copy
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfstruct.convert import file_notes, flatbuffer, joined_metadata
from tfstruct.convert.ports import BETWEEN, function_graphs
from tfstruct.convert.verification import read_content
from tfstruct.errors import ArgumentError, ConversionError

# What of a file is written anew by who joins or splits: a runtime's number has to be that of all functions.
_VERSION = "min_runtime_version"
# Options of operators that name subgraphs, all of which end like this; CALL's is named otherwise.
_GRAPHS = ("SubgraphIndex", "SubgraphIndices")


def join_signatures(files: Mapping[str, bytes | str | os.PathLike]) -> bytes:
    """One file of several: each becomes a function of it, which the interpreter lists by its name
    (`get_signature_list`, `get_signature_runner`). Constants with equal bytes are stored once.

    Args:
        files: name of the function -> a `.tflite` file of one function: a `TFLiteModel`, its bytes or its path.

    Returns:
        The bytes of the file.

    Raises:
        ArgumentError: no files, or a name that is none.
        ConversionError: a file of several functions, or one with variables or tables, which functions would share.

    Example:
        >>> lite = tfstruct.to_tflite(model, "float32")
        >>> both = tfstruct.convert.join_signatures({"one": lite, "two": lite})
        >>> len(both) < 2 * len(lite.content)
        True
    """
    check_names(files)
    contents = {name: read_content(file) for name, file in files.items()}
    models = {}
    for name, content in contents.items():
        models[name] = flatbuffer.read(content)
        if len(function_graphs(content)) > 1:
            raise ConversionError(
                f"The file for {name!r} has several functions itself: {_listed(function_graphs(content))}. Take it "
                "apart with split_signatures first."
            )
    for name, model in models.items():
        held = [t.name.decode() for g in model.subgraphs for t in g.tensors if t.type == schema.TensorType.RESOURCE]
        if held:
            raise ConversionError(
                f"The file for {name!r} has variables or tables ({held[0]}), which all functions of a file share by "
                "their numbers. Keep it as a file of its own."
            )
    joined = _Joined()
    # The main graphs first: other tools take the first one for that of the file.
    places = {name: _main_first(model) for name, model in models.items()}
    number = len(models)
    for first, (name, model) in enumerate(models.items()):
        order = places[name]
        where = {old: first if new == 0 else number + new - 1 for new, old in enumerate(order)}
        number += len(order) - 1
        joined.add(name, model, where)
    return joined_metadata.write(joined.finished(), joined_metadata.joined(contents))


def split_signatures(tflite) -> dict[str, bytes]:
    """The functions of a file, each as a file of its own.

    Args:
        tflite: a `TFLiteModel`, a `SignatureFile`, the bytes of a file, or its path.

    Returns:
        Name of the function -> bytes of its file; a file without named functions is one named `""`.

    Raises:
        ConversionError: other bytes, or a damaged file.

    Example:
        >>> lite = tfstruct.to_tflite(model, "float32")
        >>> both = tfstruct.convert.join_signatures({"one": lite, "two": lite})
        >>> list(tfstruct.convert.split_signatures(both))
        ['one', 'two']
    """
    content = read_content(tflite)
    flatbuffer.read(content)
    graphs = function_graphs(content)
    if len(graphs) < 2 and not any(graphs.values()):
        return {next(iter(graphs), ""): content}
    found = {}
    for name, graph in graphs.items():
        part = flatbuffer.read(content)
        found[name] = joined_metadata.write(_taken(part, name), joined_metadata.taken(content, graph))
    return found


def check_names(given: Mapping) -> None:
    """Refuses an empty mapping, and names that cannot be functions' names.

    Raises:
        ArgumentError: such a one.
    """
    if not given:
        raise ArgumentError("Expected functions by name, {'encode': ..., 'decode': ...}. Received an empty dict.")
    for name in given:
        if not isinstance(name, str) or not name or BETWEEN in name or not name.isprintable():
            raise ArgumentError(f"A function's name is a text without {BETWEEN!r}. Received: {name!r}.")


@dataclasses.dataclass(frozen=True)
class Unshared:
    """A constant that functions have in common in float, and of which the file holds several forms.

    Attributes:
        name: of the tensor in each function.
        bytes: of the constant in each function.
        why: its forms differ.
    """

    name: tuple[str, ...]
    bytes: tuple[int, ...]
    why: str


def constant_bytes(content: bytes) -> int:
    """Bytes of all constants of a file."""
    model = flatbuffer.read(content)
    used = {t.buffer for g in model.subgraphs for t in g.tensors if flatbuffer.is_constant(model, t)}
    return sum(len(model.buffers[i].data) for i in used if model.buffers[i].data is not None)


def unshared(floats: Mapping[str, bytes], files: Mapping[str, bytes]) -> tuple[Unshared, ...]:
    """What functions have in common in their float files and not in their own.

    Args:
        floats: name -> float file of the function.
        files: name -> its file, with tensors of the same names.
    """
    own = {name: dict(_constants(content)) for name, content in files.items()}
    alike: dict[bytes, dict[str, str]] = {}
    for name, content in floats.items():
        for tensor, (data, _) in _constants(content):
            if tensor in own[name]:
                alike.setdefault(data, {}).setdefault(name, tensor)
    found = []
    for tensors in alike.values():
        forms = [own[name][tensor] for name, tensor in tensors.items()]
        if len({data for data, _ in forms}) > 1:
            names = tuple(f"{name}/{tensor}" for name, tensor in tensors.items())
            sizes = tuple(own[name][tensor][1][1] for name, tensor in tensors.items())
            found.append(Unshared(names, sizes, _why([kind for _, (kind, _) in forms])))
    return tuple(found)


def _why(kinds: Sequence[str]) -> str:
    if len(set(kinds)) > 1:
        return f"{' and '.join(dict.fromkeys(kinds))}"
    if kinds[0] in ("int32", "int64"):
        return "a bias in integers is in steps of its input, whose range differs"
    return "rounded on other data or with other scales"


def _constants(content: bytes) -> Iterator[tuple[str, tuple[bytes, tuple[str, int]]]]:
    """Tensor -> (digest of type, shape and bytes, (type, size)), of constants of floats and of what they became."""
    model = flatbuffer.read(content)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data if flatbuffer.is_constant(model, tensor) else None
            if data is not None and len(data) > 4:  # a number alone is no weight
                kind = flatbuffer.dtype_name(tensor)
                key = hashlib.sha256(f"{kind}{list(tensor.shape)}".encode() + bytes(data)).digest()
                yield tensor.name.decode(), (key, (kind, len(data)))


class _Joined:
    """A file that grows by functions."""

    def __init__(self):
        self._model = schema.ModelT()
        self._model.version, self._model.description = 3, b"tfstruct"
        self._model.operatorCodes, self._model.signatureDefs, self._model.metadata = [], [], []
        self._model.buffers = [schema.BufferT()]
        self._graphs: dict[int, schema.SubGraphT] = {}
        self._codes: dict[tuple, int] = {}
        self._stored: dict[bytes, int] = {}
        self._versions: list[bytes] = []

    def add(self, name: str, model: schema.ModelT, where: Mapping[int, int]) -> None:
        """Adds a function; `where` its subgraphs go."""
        codes = [self._code(code) for code in model.operatorCodes]
        for old, new in where.items():
            graph = model.subgraphs[old]
            for tensor in graph.tensors:
                constant = flatbuffer.is_constant(model, tensor)
                tensor.buffer = self._buffer(model.buffers[tensor.buffer]) if constant else 0
                tensor.name = name.encode() + BETWEEN.encode() + tensor.name
            for operator in graph.operators:
                operator.opcodeIndex = codes[operator.opcodeIndex]
                for options in (operator.builtinOptions, operator.builtinOptions2):
                    _move_graphs(options, where)
            self._graphs[new] = graph
        signature = (model.signatureDefs or [None])[0] or _signature_of(model)
        signature.signatureKey, signature.subgraphIndex = name.encode(), where[signature.subgraphIndex]
        self._graphs[signature.subgraphIndex].name = name.encode()
        self._model.signatureDefs.append(signature)
        for entry in model.metadata or []:
            data = model.buffers[entry.buffer].data
            text = b"" if data is None else bytes(data)
            if entry.name.decode() == _VERSION:
                self._versions.append(text)
            elif file_notes.is_own(entry.name.decode()):
                file_notes.write_note(self._model, file_notes.of_function(entry.name.decode(), name), text)

    def finished(self) -> schema.ModelT:
        self._model.subgraphs = [self._graphs[number] for number in sorted(self._graphs)]
        if self._versions:
            newest = max(
                self._versions, key=lambda text: [int(n) for n in text.strip(b"\0").split(b".") if n.isdigit()]
            )
            file_notes.write_note(self._model, _VERSION, newest)
        return self._model

    def _code(self, code: schema.OperatorCodeT) -> int:
        key = (code.builtinCode, code.deprecatedBuiltinCode, code.customCode, code.version)
        if key not in self._codes:
            self._codes[key] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(code)
        return self._codes[key]

    def _buffer(self, buffer: schema.BufferT) -> int:
        if buffer.data is None:
            raise ConversionError(
                "A file whose constants lie outside of its tables, as one above 2 GB, cannot be joined."
            )
        key = hashlib.sha256(np.ascontiguousarray(buffer.data).data).digest()
        if key not in self._stored:
            self._stored[key] = len(self._model.buffers)
            self._model.buffers.append(buffer)
        return self._stored[key]


def _taken(model: schema.ModelT, name: str) -> schema.ModelT:
    """The model with one function alone."""
    signature = next(one for one in model.signatureDefs if one.signatureKey == name.encode())
    order, waiting = [], [signature.subgraphIndex]
    while waiting:
        number = waiting.pop(0)
        if number not in order:
            order.append(number)
            for operator in model.subgraphs[number].operators:
                for options in (operator.builtinOptions, operator.builtinOptions2):
                    waiting += _named_graphs(options)
    where = {old: new for new, old in enumerate(order)}
    buffers, kept = [schema.BufferT()], {0: 0}
    out = copy.copy(model)
    out.subgraphs = [model.subgraphs[number] for number in order]
    prefix = name.encode() + BETWEEN.encode()
    for graph in out.subgraphs:
        for tensor in graph.tensors:
            if tensor.buffer not in kept:
                kept[tensor.buffer] = len(buffers)
                buffers.append(model.buffers[tensor.buffer])
            tensor.buffer = kept[tensor.buffer]
            tensor.name = tensor.name.removeprefix(prefix)
        for operator in graph.operators:
            for options in (operator.builtinOptions, operator.builtinOptions2):
                _move_graphs(options, where)
    signature.subgraphIndex = 0
    out.signatureDefs, out.buffers, out.metadata = [signature], buffers, []
    for entry in model.metadata or []:
        data = model.buffers[entry.buffer].data
        note = file_notes.from_function(entry.name.decode(), name)
        if note is not None or entry.name.decode() == _VERSION:
            file_notes.write_note(out, note or _VERSION, b"" if data is None else bytes(data))
    _drop_unused_codes(out)
    return out


def _drop_unused_codes(model: schema.ModelT) -> None:
    used = sorted({op.opcodeIndex for graph in model.subgraphs for op in graph.operators})
    places = {old: new for new, old in enumerate(used)}
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex = places[operator.opcodeIndex]
    model.operatorCodes = [model.operatorCodes[i] for i in used]


def _main_first(model: schema.ModelT) -> list[int]:
    main = model.signatureDefs[0].subgraphIndex if model.signatureDefs else 0
    return [main, *(i for i in range(len(model.subgraphs)) if i != main)]


def _signature_of(model: schema.ModelT) -> schema.SignatureDefT:
    """For a file that has none: names of tensors as names of inputs and outputs."""
    graph, made = model.subgraphs[0], schema.SignatureDefT()
    made.subgraphIndex = 0
    for side in ("inputs", "outputs"):
        maps = []
        for index in map(int, getattr(graph, side)):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = graph.tensors[index].name.rpartition(BETWEEN.encode())[2], index
            maps.append(entry)
        setattr(made, side, maps)
    return made


def _graph_fields(options) -> Iterator[str]:
    for field in vars(options) if options is not None else ():
        if field.endswith(_GRAPHS) or (field == "subgraph" and isinstance(options, schema.CallOptionsT)):
            yield field


def _named_graphs(options) -> Iterable[int]:
    for field in _graph_fields(options):
        value = getattr(options, field)
        yield from [int(value)] if np.ndim(value) == 0 else map(int, value)


def _move_graphs(options, where: Mapping[int, int]) -> None:
    for field in _graph_fields(options):
        value = getattr(options, field)
        setattr(options, field, where[int(value)] if np.ndim(value) == 0 else [where[int(i)] for i in value])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
