"""The inside of a `.tflite` file: its operators and tensors, with the Keras layers they came from."""

import dataclasses
import itertools
import math
import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from tfstruct.convert import file_bounds
from tfstruct.convert.file_writing import write
from tfstruct.errors import ConversionError
from tfstruct.tflite_operators import traits_of

_OPERATOR_NAMES = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
_FLOAT_TYPES = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.FLOAT64)
_DTYPE_NAMES = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
# They change the number format only: an integer file has them at its border, or around a float operator.
BORDER_OPERATORS = ("QUANTIZE", "DEQUANTIZE")
# Larger codes of operators are written in a field of their own, and this one in the old one.
_MOST_DEPRECATED = 127
# Begins the name of every tensor in the body of a loop or branch.
SUBGRAPH_PREFIX = "subgraph"


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of a `.tflite` file.

    Attributes:
        index: its place in the subgraph.
        subgraph: 0 is the main graph; others are bodies of WHILE and IF.
        name: TensorFlow Lite's name, e.g. `"CONV_2D"`.
        layers: paths of the Keras layers it came from, in the order of their calls; empty where unknown.
        inputs: names of the tensors read that are no constants.
        outputs: names of the tensors written.
        dtype: of the first output.
        weights: dtype of a constant kernel or table; empty where there is none.
        is_float: True if a tensor it reads or writes, constants left out, holds floats.
    """

    index: int
    subgraph: int
    name: str
    layers: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dtype: str
    weights: str
    is_float: bool

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.layers) or 'no layer known'})"


def read(content: bytes) -> schema.ModelT:
    """Parses a `.tflite` file into objects that can be edited.

    Raises:
        ConversionError: other bytes, a damaged file, one that names tensors, buffers or operators that it does not
            have, or one that would become far more objects than a model of its size.
    """
    if content[4:8] != b"TFL3":
        raise ConversionError(
            f"Expected a .tflite file, which carries 'TFL3' at byte 4. Received {_other_than_tflite(content)}."
        )
    try:
        file_bounds.check_size(content)
        model = flatbuffer_utils.read_model_from_bytearray(memoryview(content))  # constants are views of the file
        for buffer in model.buffers:
            # What lies behind the tables comes as bytes, which are packed one at a time: 80 s for 100 million weights.
            if buffer.data is not None and not isinstance(buffer.data, np.ndarray):
                buffer.data = np.frombuffer(buffer.data, np.uint8)
        _check_places(model)
    except (struct.error, IndexError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ConversionError(f"The .tflite file is damaged: {error}.") from error
    return model


def _other_than_tflite(content: bytes) -> str:
    """What a file is that is no `.tflite` file, as far as its first bytes say."""
    for start, suffix in ((b"\x89HDF", ".h5"), (b"PK\x03\x04", ".keras")):
        if bytes(content[:4]) == start:
            return f"what looks like a {suffix} file of Keras: load it first, tfstruct.legacy.load(path)"
    return "other bytes"


def _check_places(model: schema.ModelT) -> None:
    """Checks every number that names something else of the file; what is left out is made empty."""
    codes, buffers = len(model.operatorCodes), len(model.buffers)
    for code in model.operatorCodes:
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)
        if kind == schema.BuiltinOperator.CUSTOM:
            code.customCode = code.customCode or b""
            code.customCode.decode()
        elif kind not in _OPERATOR_NAMES:
            raise ValueError(f"it has an operator of the unknown kind {kind}")
    for graph in model.subgraphs:
        _fill(graph, ("tensors", "operators", "inputs", "outputs"))
        count = len(graph.tensors)
        _check(graph.inputs, 0, count, "tensor")
        _check(graph.outputs, 0, count, "tensor")
        for tensor in graph.tensors:
            tensor.name = tensor.name or b""
            tensor.name.decode()
            _check([tensor.buffer], 0, buffers, "buffer")
            _check([tensor.type], 0, len(_DTYPE_NAMES), "dtype")
        for operator in graph.operators:
            _fill(operator, ("inputs", "outputs"))
            _check([operator.opcodeIndex], 0, codes, "operator code")
            _check([*operator.inputs, *operator.outputs], -1, count, "tensor")
    for signature in model.signatureDefs or ():
        _fill(signature, ("inputs", "outputs"))
        _check([signature.subgraphIndex], 0, len(model.subgraphs), "subgraph")
        maps = [*signature.inputs, *signature.outputs]
        _check([m.tensorIndex for m in maps], 0, len(model.subgraphs[signature.subgraphIndex].tensors), "tensor")
        for entry in maps:
            entry.name.decode()


def _fill(table, fields: Iterable[str]) -> None:
    for field in fields:
        if getattr(table, field) is None:
            setattr(table, field, [])


def _check(numbers: Iterable[int], least: int, end: int, what: str) -> None:
    for number in numbers:
        if not least <= number < end:
            raise ValueError(f"it names the {what} {number}, of {end}")


def parsed(content: bytes | schema.ModelT) -> schema.ModelT:
    """A file to be looked at, which whoever calls may have parsed: for a large one that takes a tenth of a second."""
    return content if isinstance(content, schema.ModelT) else read(content)


def compact(content: bytes) -> bytes:
    """The same file, with equal vectors of numbers written once and its constants aligned."""
    return write(read(content))


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """`"CONV_2D"`; a custom operator by its own name; a TensorFlow operator as `"Flex..."`."""
    code = model.operatorCodes[operator.opcodeIndex]
    kind = max(code.builtinCode, code.deprecatedBuiltinCode)
    if kind == schema.BuiltinOperator.CUSTOM:
        return code.customCode.decode()
    return _OPERATOR_NAMES[kind]


def dtype_name(tensor: schema.TensorT) -> str:
    """`"int8"`, `"float32"`, ..."""
    return dtype_name_of(tensor.type)


def dtype_name_of(kind: int) -> str:
    """`"int8"`, `"float32"`, ... of a `TensorType`."""
    return _DTYPE_NAMES[kind]


def is_builtin(name: str) -> bool:
    """True if an operator's name is one of TensorFlow Lite's own."""
    return name in _OPERATOR_NAMES.values()


def is_constant(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    buffer = model.buffers[tensor.buffer]
    return tensor.buffer != 0 and ((buffer.data is not None and len(buffer.data) > 0) or bool(buffer.offset))


def constant(model: schema.ModelT, tensor: schema.TensorT, dtype=np.float32) -> np.ndarray:
    """The value of a constant tensor; a view that cannot be written. A ConversionError where it is not of its shape."""
    values = _values(model, tensor, np.dtype(dtype))
    values.flags.writeable = False
    return values


def _values(model: schema.ModelT, tensor: schema.TensorT, dtype, unpack=lambda held, count: held) -> np.ndarray:
    data = bytes(0) if (held := model.buffers[tensor.buffer].data) is None else held
    shape = tuple(map(int, [] if tensor.shape is None else tensor.shape))
    values = unpack(np.frombuffer(data, dtype, len(data) // dtype.itemsize), max(math.prod(shape), 0))
    if values.size != math.prod(shape):
        raise ConversionError(f"A damaged .tflite file: {tensor.name!r} of shape {shape} holds {values.size:,} values.")
    return values.reshape(shape)


def input_names(content: bytes | schema.ModelT) -> list[str]:
    """Names of the inputs of the main graph."""
    graph = parsed(content).subgraphs[0]
    return [graph.tensors[i].name.decode() for i in graph.inputs]


def values_made(content: bytes | schema.ModelT) -> int:
    """How many values the operators of the main graph make in one run."""
    graph = parsed(content).subgraphs[0]
    made = {int(i) for operator in graph.operators for i in operator.outputs if i >= 0}
    return sum(math.prod(map(int, graph.tensors[i].shape)) for i in made if graph.tensors[i].shape is not None)


def shape_signature(tensor: schema.TensorT) -> list[int]:
    """The shape of a tensor, -1 where it is open."""
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    return [] if shape is None else list(shape)


def integers(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    """The value of a constant of 4, 8 or 16 bits."""
    if dtype_name(tensor) != "int4":
        return constant(model, tensor, {"int8": np.int8, "int16": np.int16}[dtype_name(tensor)])
    return _values(  # the last byte may hold one
        model, tensor, np.dtype(np.uint8), lambda x, n: (nibbles(x, max(n, 2 * x.size - 1)) ^ 8).astype(np.int8) - 8
    )


def nibbles(packed: np.ndarray, count: int) -> np.ndarray:
    """The values, 0 to 15, of bytes that hold two each, the lower half first."""
    return np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:count]


def set_constant(model: schema.ModelT, tensor: schema.TensorT, value: np.ndarray) -> None:
    """Gives a constant a new value; where equal constants share a buffer, in a buffer of its own."""
    users = sum(t.buffer == tensor.buffer for graph in model.subgraphs for t in graph.tensors)
    if users > 1:
        model.buffers.append(schema.BufferT())
        tensor.buffer = len(model.buffers) - 1
    model.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)


def operators(content: bytes | schema.ModelT, layers: Mapping[str, tuple[str, ...]] | None = None) -> list[Operator]:
    """All operators in order, those of subgraphs too; `layers` maps a tensor's name to Keras layers."""
    model = parsed(content)
    layers = layers or {}
    found = []
    for number, graph in enumerate(model.subgraphs):
        # TensorFlow's quantizer gives a layer's name to the integers made of its floats, and the floats another.
        integers_of = {
            graph.tensors[op.inputs[0]].name.decode(): graph.tensors[op.outputs[0]].name.decode()
            for op in graph.operators
            if operator_name(model, op) == "QUANTIZE" and len(op.inputs) and len(op.outputs)
        }
        for index, operator in enumerate(graph.operators):
            tensors = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
            live = [t for t in tensors if not is_constant(model, t)]
            outputs = tuple(graph.tensors[i].name.decode() for i in operator.outputs)
            inputs = tuple(
                graph.tensors[i].name.decode()
                for i in operator.inputs
                if i >= 0 and not is_constant(model, graph.tensors[i])
            )
            copies = [integers_of[name] for name in outputs if name in integers_of]
            origin = next((layers[name] for name in (*outputs, *copies, *inputs) if layers.get(name)), ())
            dtype = _DTYPE_NAMES[graph.tensors[operator.outputs[0]].type] if len(operator.outputs) else ""
            found.append(
                Operator(
                    index,
                    number,
                    operator_name(model, operator),
                    origin,
                    inputs,
                    outputs,
                    dtype,
                    _weights_dtype(model, graph, operator),
                    any(t.type in _FLOAT_TYPES for t in live),
                )
            )
    return _with_neighbours(found)


def _weights_dtype(model, graph, operator) -> str:
    name = operator_name(model, operator)
    place = traits_of(name).kernel
    if place is None or len(operator.inputs) <= place or operator.inputs[place] < 0:
        return ""
    tensor = graph.tensors[operator.inputs[place]]
    return _DTYPE_NAMES[tensor.type] if is_constant(model, tensor) else ""


def _with_neighbours(found: list[Operator]) -> list[Operator]:
    """Gives operators of unknown origin, which quantizers insert, the layers of the one before or after them."""
    known: dict[str, tuple[str, ...]] = {}
    for op in found:
        known.update({name: op.layers for name in op.outputs if op.layers})
    for op in reversed(found):
        known.update({name: op.layers for name in op.inputs if op.layers and name not in known})
    out = []
    for op in found:
        layers = op.layers or next((known[n] for n in (*op.inputs, *op.outputs) if n in known), ())
        known.update({name: layers for name in op.outputs if layers and name not in known})
        out.append(op if layers == op.layers else dataclasses.replace(op, layers=layers))
    return out


def layers_by_name(op: Operator) -> tuple[str, ...]:
    """The layer in the name of an operator's result: tfstruct names tensors after layers."""
    return (layer_in_name(op.outputs[0]),) if op.outputs else ()


def layer_in_name(name: str) -> str:
    """The layer in the name of a tensor."""
    return re.sub(r"(:\d+|_dequant|_quantized)+$", "", name)


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or the first of `name:1`, `name:2`, ... that is not taken."""
    return next(one for one in itertools.chain([name], (f"{name}:{n}" for n in itertools.count(1))) if one not in taken)


def float_operators(found: Iterable[Operator]) -> list[Operator]:
    """The operators that compute in float; those that only convert numbers are not among them."""
    return [op for op in found if op.is_float and op.name not in BORDER_OPERATORS]


def add_tensor(graph, shape: Sequence[int], name: bytes, kind: int) -> int:
    """A new tensor of the type `kind` in a graph, whose values are computed; its index."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, 0
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def add_constant(model, graph, value: np.ndarray, name: bytes, kind: int) -> int:
    """A new constant of the type `kind` in a graph; its index."""
    index = add_tensor(graph, value.shape, name, kind)
    model.buffers.append(schema.BufferT())
    graph.tensors[index].buffer = len(model.buffers) - 1
    set_constant(model, graph.tensors[index], value)
    return index


def new_operator(model, name: str, inputs: list[int], outputs: list[int], kind: int, options) -> schema.OperatorT:
    """An operator by TensorFlow Lite's name, with its options and their kind; it has to be put into a graph."""
    code = getattr(schema.BuiltinOperator, name)
    known = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    if code not in known:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, _MOST_DEPRECATED), 1
        model.operatorCodes.append(entry)
        known.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = known.index(code)
    operator.inputs, operator.outputs = inputs, outputs
    operator.builtinOptionsType, operator.builtinOptions = kind, options
    return operator


def set_ranges(content: bytes, ranges: Mapping[str, tuple[float, float]]) -> bytes:
    """Writes (min, max) into the activation tensors of the main graph, where a quantizer looks for them."""
    model = read(content)
    for tensor in model.subgraphs[0].tensors:
        name = tensor.name.decode()
        if name in ranges and not is_constant(model, tensor):
            quantization = schema.QuantizationParametersT()
            quantization.min, quantization.max = [float(ranges[name][0])], [float(ranges[name][1])]
            tensor.quantization = quantization
    return write(model)
