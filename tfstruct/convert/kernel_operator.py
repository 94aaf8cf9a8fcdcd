"""`KernelOperator`: an operator with a kernel by its shapes and options alone, in any width, as a file of its own."""

import dataclasses
import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfstruct.arguments import require_one_of
from tfstruct.convert import flatbuffer
from tfstruct.convert.latency import Shapes, macs
from tfstruct.errors import ArgumentError
from tfstruct.tflite_operators import operators_that, traits_of

NAMES = operators_that(lambda traits: traits.unit == "kernel")
_SAME = schema.Padding.SAME
# In the integers of an operator on its own: any that its kernels take do.
_SCALE, _KERNEL_SCALE = 0.1, 0.01
_BIASES = {"int8": np.int32, "int16": np.int64, "float32": np.float32}


@dataclasses.dataclass(frozen=True)
class KernelOperator:
    """CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED or TRANSPOSE_CONV, without values.

    Attributes:
        name: TensorFlow Lite's.
        input, kernel, output: shapes, in TensorFlow Lite's order of axes.
        options: fields of its options that are not the schema's defaults.
        dtype: of input and output.
        weights: of the kernel.
        scales: of the kernel, how many; 0 where it holds floats.
        bias: whether it has one.
        version: of the operator.

    Example:
        >>> from tfstruct.convert.kernel_operator import KernelOperator
        >>> dense = KernelOperator("FULLY_CONNECTED", (1, 32), (10, 32), (1, 10))
        >>> dense.resized(inputs=16).kernel, dense.resized(inputs=16).macs
        ((10, 16), 160)
    """

    name: str
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    output: tuple[int, ...]
    options: tuple[tuple[str, Any], ...] = ()
    dtype: str = "int8"
    weights: str = "int8"
    scales: int = 1
    bias: bool = True
    version: int = 1

    def __post_init__(self):
        require_one_of("name", self.name, NAMES)

    @property
    def key(self) -> str:
        """All of it as one line."""
        return " ".join(f"{one}" for one in dataclasses.astuple(self)).replace(", ", ",")

    @property
    def inputs(self) -> int:
        """Channels that it reads."""
        return self.kernel[-1] if self.name == "FULLY_CONNECTED" else self.input[-1]

    @property
    def outputs(self) -> int:
        """Channels that it makes."""
        return self.kernel[traits_of(self.name).out_axis]

    @property
    def shapes(self) -> Shapes:
        """Shapes of its inputs, in the operator's order, and of its output, as `latency.shapes_of` has them."""
        bias = ((self.outputs,),) if self.bias else ()
        if self.name == "TRANSPOSE_CONV":
            return ((len(self.output),), self.kernel, self.input, *bias, self.output)
        return (self.input, self.kernel, *bias, self.output)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return macs(self.name, self.shapes)

    def resized(
        self, *, inputs: int | None = None, outputs: int | None = None, positions: tuple[int, int] | None = None
    ) -> "KernelOperator":
        """The operator at other widths, or on other positions of its input.

        Args:
            inputs, outputs: channels; those of a depthwise convolution keep their ratio.
            positions: height and width of the input, of a convolution.
        """
        before, after = self.inputs, self.outputs
        inputs = before if inputs is None else inputs
        outputs = after if outputs is None else outputs
        if min(inputs, outputs) < 1:
            raise ArgumentError(f"An operator has 1 channel at least. Received: {inputs} and {outputs}.")
        scales = outputs if self.scales == after and after > 1 else self.scales
        if self.name == "FULLY_CONNECTED":
            lead = self.input[:-1] if self.input[-1] == before else (math.prod(self.input) // before,)
            return dataclasses.replace(
                self, input=(*lead, inputs), kernel=(outputs, inputs), output=(*self.output[:-1], outputs),
                scales=scales,
            )  # fmt: skip
        if self.name == "DEPTHWISE_CONV_2D":
            times = after // before
            inputs = inputs if inputs != before else max(outputs // times, 1)
            outputs, scales = inputs * times, inputs * times if self.scales == after and after > 1 else self.scales
            kernel = (*self.kernel[:3], outputs)
        else:  # a kernel of groups reads the channels of one
            kernel = (outputs, *self.kernel[1:3], max(self.kernel[-1] * inputs // before, 1))
        area = positions or self.input[1:3]
        made = self._made(area) if positions else self.output[1:3]
        return dataclasses.replace(
            self, input=(self.input[0], *area, inputs), kernel=kernel, output=(self.output[0], *made, outputs),
            scales=scales,
        )  # fmt: skip

    def _made(self, area: tuple[int, ...]) -> tuple[int, ...]:
        """Positions of the output by those of the input."""
        options = dict(self.options)
        found = []
        for axis, (size, side) in enumerate(zip(area, "HW", strict=True)):
            stride = options.get(f"stride{side}", 0) or 1
            if self.name == "TRANSPOSE_CONV":
                found.append(self.output[1 + axis] + (size - self.input[1 + axis]) * stride)
            elif options.get("padding", _SAME) == _SAME:
                found.append(-(-size // stride))
            else:
                reach = (self.kernel[1 + axis] - 1) * options.get(f"dilation{side}Factor", 1)
                found.append((size - reach - 1) // stride + 1)
        return tuple(max(size, 1) for size in found)

    def file(self) -> bytes:
        """A `.tflite` file of nothing else, on zeros."""
        model, graph = schema.ModelT(), schema.SubGraphT()
        model.version, model.description = 3, b"tfstruct: one operator"
        model.operatorCodes, model.subgraphs, model.buffers = [], [graph], [schema.BufferT()]
        graph.name, graph.tensors = b"main", []
        data = self._live(graph, b"input", self.input)
        made = self._live(graph, b"output", self.output)
        count = math.prod(self.kernel)
        values = np.zeros((count + 1) // 2 if self.weights == "int4" else count, self._number(self.weights))
        kernel = flatbuffer.add_constant(model, graph, values, b"kernel", _type(self.weights))
        graph.tensors[kernel].shape = list(self.kernel)
        if self.scales:
            axis = traits_of(self.name).out_axis % len(self.kernel)
            graph.tensors[kernel].quantization = _quantized([_KERNEL_SCALE] * self.scales, axis)
        places = [data, kernel]
        if self.name == "TRANSPOSE_CONV":
            shape = np.array(self.output, np.int32)
            places = [flatbuffer.add_constant(model, graph, shape, b"shape", _type("int32")), kernel, data]
        if self.bias:
            dtype = _BIASES[self.dtype]
            bias = flatbuffer.add_constant(
                model, graph, np.zeros(self.outputs, dtype), b"bias", _type(np.dtype(dtype).name)
            )
            if self.dtype != "float32":
                graph.tensors[bias].quantization = _quantized([_SCALE * _KERNEL_SCALE] * self.scales, 0)
            places.append(bias)
        kind, options = _options(self.name)
        for field, value in self.options:
            setattr(options, field, value)
        graph.operators = [flatbuffer.new_operator(model, self.name, places, [made], kind, options)]
        model.operatorCodes[0].version = self.version
        graph.inputs, graph.outputs = [data], [made]
        return flatbuffer.write(model)

    def _live(self, graph, name: bytes, shape: tuple[int, ...]) -> int:
        index = flatbuffer.add_tensor(graph, shape, name, _type(self.dtype))
        if self.dtype != "float32":
            graph.tensors[index].quantization = _quantized([_SCALE], 0)
        return index

    @staticmethod
    def _number(dtype: str):
        return np.uint8 if dtype == "int4" else np.dtype(dtype)


def kernel_operator(model: schema.ModelT, op: flatbuffer.Operator) -> KernelOperator | None:
    """An operator of a file without its values; None for one of another kind, of open sizes, or whose kernel is no
    constant.

    Args:
        model: from `flatbuffer.read`.
        op: from `flatbuffer.operators`.
    """
    if op.name not in NAMES or not op.weights:
        return None
    graph, traits = model.subgraphs[op.subgraph], traits_of(op.name)
    operator = graph.operators[op.index]
    data, kernel, made = (
        graph.tensors[i] for i in (operator.inputs[traits.data], operator.inputs[traits.kernel], operator.outputs[0])
    )
    shapes = [tuple(map(int, flatbuffer.shape_signature(tensor))) for tensor in (data, kernel, made)]
    if any(size < 1 for shape in shapes for size in shape) or op.dtype not in _BIASES:
        return None
    options = operator.builtinOptions
    default = vars(type(options)())
    changed = sorted((name, _plain(value)) for name, value in vars(options).items() if value != default[name])
    scale = None if kernel.quantization is None else kernel.quantization.scale
    bias = traits.bias is not None and len(operator.inputs) > traits.bias and operator.inputs[traits.bias] >= 0
    code = model.operatorCodes[operator.opcodeIndex]
    return KernelOperator(
        op.name, shapes[0], shapes[1], shapes[2], tuple(changed), dtype=op.dtype, weights=op.weights,
        scales=0 if scale is None else len(scale), bias=bias, version=code.version,
    )  # fmt: skip


def _options(name: str) -> tuple[int, Any]:
    """The options of an operator, as the schema has them by default, and their kind."""
    known = {kind.lower(): kind for kind in vars(schema.BuiltinOptions)}
    kind = known[f"{name.replace('_', '')}options".lower()]
    return getattr(schema.BuiltinOptions, kind), getattr(schema, f"{kind}T")()


def _plain(value):
    return value if isinstance(value, bool) else int(value)


def _type(dtype: str) -> int:
    return getattr(schema.TensorType, dtype.upper())


def _quantized(scales: list[float], axis: int) -> schema.QuantizationParametersT:
    found = schema.QuantizationParametersT()
    found.scale, found.zeroPoint = scales, [0] * len(scales)
    found.quantizedDimension = axis if len(scales) > 1 else 0
    return found
