"""`Port`: an input or output of a file: name, shape, type, and what its integers stand for."""

import dataclasses
import struct
from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfstruct.convert import file_notes, flatbuffer
from tfstruct.errors import ConversionError
from tfstruct.reporting.tables import shape as sizes

# Between the name of a function and that of its tensor, in a file of several functions.
BETWEEN = "/"
# TensorFlow Lite's types of which arrays are made -> NumPy's; the interpreter hands 4-bit integers out as bytes.
_NUMBERS = "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128"
_DTYPES = {**{name: name for name in _NUMBERS.split()}, "string": "S", "int4": "int8"}


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of a file.

    Attributes:
        name: the signature's name.
        index: the tensor's number in the file.
        shape: with the batch axis; None is open.
        dtype: what the file stores.
        scale, zero_point: real = scale * (stored - zero_point); scale 0 where the tensor is not quantized. Real numbers
            are those of the model: where preprocessing is part of the file's own scale, those before it.
    """

    name: str
    index: int
    shape: tuple[int | None, ...]
    dtype: np.dtype
    scale: float
    zero_point: int

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Real numbers to what the file stores; beyond its range they are clipped."""
        if not self.scale:
            return values.astype(self.dtype, copy=False)
        limits = np.iinfo(self.dtype)
        return np.clip(np.round(values / self.scale) + self.zero_point, limits.min, limits.max).astype(self.dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """What the file stores to real numbers, float32 where it is quantized."""
        if not self.scale:
            return stored
        return ((stored.astype(np.float32) - self.zero_point) * self.scale).astype(np.float32)

    @property
    def to_stored(self) -> str:
        """The formula from real numbers to what the file stores, in words."""
        if not self.scale:
            return f"stored = real, as {self.dtype.name}"
        limits = np.iinfo(self.dtype)
        whole = "real" if self.scale == 1 else f"real / {self.scale:.6g}"
        zero = f" {'+' if self.zero_point > 0 else '-'} {abs(self.zero_point)}" if self.zero_point else ""
        return f"stored = round({whole}){zero}, clipped to {limits.min}..{limits.max}"

    @property
    def to_real(self) -> str:
        """The formula from what the file stores to real numbers, in words."""
        if not self.scale:
            return "real = stored"
        zero = f" {'-' if self.zero_point > 0 else '+'} {abs(self.zero_point)}" if self.zero_point else ""
        return f"real = {self.scale:.6g} * (stored{zero})" if zero else f"real = {self.scale:.6g} * stored"

    @property
    def limits(self) -> tuple[float, float] | None:
        """What the smallest and the largest integer stand for; None where the port is not quantized."""
        if not self.scale:
            return None
        ends = np.iinfo(self.dtype)
        return self.scale * (int(ends.min) - self.zero_point), self.scale * (int(ends.max) - self.zero_point)

    def described(self, is_input: bool) -> str:
        """Shape, dtype and the formula that who feeds or reads the file needs."""
        text = f"{sizes(self.shape)} {self.dtype.name}"
        return f"{text}, {self.to_stored if is_input else self.to_real}" if self.scale else text

    def zeros(self) -> np.ndarray:
        """Zeros of the port's shape, with one where that is open, in the type that the file stores."""
        return np.zeros([1 if size is None else size for size in self.shape], self.dtype)

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return {**dataclasses.asdict(self), "shape": list(self.shape), "dtype": self.dtype.name}

    @classmethod
    def from_dict(cls, data: Mapping) -> "Port":
        return cls(**{**data, "shape": tuple(data["shape"]), "dtype": np.dtype(data["dtype"])})


def function_graphs(content: bytes) -> dict[str, int]:
    """The functions that a file names, with their graphs, in the order of these; of several names of a graph the first.
    The rest of the file is not unpacked.

    Raises:
        ConversionError: a damaged file.
    """
    found: dict[int, str] = {}
    try:
        model = schema.Model.GetRootAs(content)
        for i in range(model.SignatureDefsLength()):
            signature = model.SignatureDefs(i)
            found.setdefault(signature.SubgraphIndex(), (signature.SignatureKey() or b"").decode("utf-8", "replace"))
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ConversionError(f"The .tflite file is damaged: {error}.") from error
    return {found[graph]: graph for graph in sorted(found)}


def require_one_function(content: bytes) -> None:
    """Refuses a file of several functions, where one is meant, and one whose function is not its first graph.

    Raises:
        ConversionError: such a file, or a damaged one.
    """
    graphs = function_graphs(content)
    if len(graphs) > 1:
        raise ConversionError(
            f"The file has several functions: {', '.join(map(repr, graphs))}. Take one of them: "
            f"tfstruct.convert.split_signatures(file)[{next(iter(graphs))!r}]."
        )
    if any(graphs.values()):
        raise ConversionError(
            "The file's function is not its first graph, which runtimes run. tfstruct.convert.split_signatures(file) "
            "puts it in its place."
        )


def ports_of(
    content: bytes, *, of_model: bool = True, function: str | None = None
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs and outputs of a file, read from the file alone: in the order of its signature, or else of its main
    graph.

    Args:
        of_model: scales of what the model takes, also where preprocessing is part of the file's own.
        function: its name, in a file that has several.

    Raises:
        ConversionError: other bytes, a damaged file, or one of several functions where none is named.
    """
    model = flatbuffer.read(content)
    if function is None:
        require_one_function(content)
    scales = file_notes.input_scales(content, function) if of_model else {}
    named = (one for one in model.signatureDefs or [] if function in (None, (one.signatureKey or b"").decode()))
    signature = next(named, None)
    graph = model.subgraphs[signature.subgraphIndex if signature else 0]

    def ports(own, indices, scales: Mapping[str, tuple[float, int]]) -> tuple[Port, ...]:
        own = [(m.name.decode(), int(m.tensorIndex)) for m in own] if signature else []
        own = own or [(graph.tensors[i].name.decode(), int(i)) for i in indices]
        return tuple(_port(name, index, graph.tensors[index], scales.get(name)) for name, index in own)

    return (
        ports(signature and signature.inputs, graph.inputs, scales),
        ports(signature and signature.outputs, graph.outputs, {}),
    )


def ports_by_function(content: bytes) -> tuple[tuple[str, ...], tuple[tuple[Port, ...], tuple[Port, ...]]]:
    """The functions of a file that has several, else none; inputs and outputs of all, of several functions as
    `function/name`. The file is not loaded: it may be from elsewhere.

    Raises:
        ConversionError: other bytes, or a damaged file.
    """
    graphs = function_graphs(content)
    if len(graphs) < 2:
        return (), ports_of(content, function=next(iter(graphs), None))
    sides: tuple[list[Port], list[Port]] = ([], [])
    for name in graphs:
        for side, ports in zip(sides, ports_of(content, function=name), strict=True):
            side += [dataclasses.replace(port, name=f"{name}{BETWEEN}{port.name}") for port in ports]
    return tuple(graphs), (tuple(sides[0]), tuple(sides[1]))


def _port(name: str, index: int, tensor, scale: tuple[float, int] | None) -> Port:
    own_name = flatbuffer.dtype_name(tensor)
    if own_name not in _DTYPES:
        raise ConversionError(f"The input or output {name!r} of the .tflite file is {own_name}, which no array holds.")
    shape = tuple(None if size < 0 else int(size) for size in flatbuffer.shape_signature(tensor))
    dtype, found = np.dtype(_DTYPES[own_name]), tensor.quantization
    has_scale = dtype.kind in "iu" and found is not None and found.scale is not None and len(found.scale) == 1
    own = (float(found.scale[0]), int(found.zeroPoint[0])) if has_scale else (0.0, 0)
    return Port(name, index, shape, dtype, *(scale if has_scale and scale else own))
