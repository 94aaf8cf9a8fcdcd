"""The number types at the border of a file: what its inputs take and its outputs give, whatever is computed inside."""

from collections.abc import Mapping, Sequence

import numpy as np

from tfstruct.convert import file_notes, flatbuffer
from tfstruct.convert.flatbuffer import schema
from tfstruct.convert.front_scaling import Front
from tfstruct.errors import RecipeError

Types = str | Mapping[str, str] | None
_INTEGERS = ("uint8", "int8", "int16")
_SIDES = {"input": "inputs", "output": "outputs"}


def by_name(given: Types, names: Sequence[str], side: str) -> dict[str, str]:
    """Type by name of the inputs or outputs, from one for all or from some of them by name.

    Args:
        side: `"input"` or `"output"`.

    Raises:
        RecipeError: a name that is none.
    """
    if given is None or isinstance(given, str):
        return dict.fromkeys(names, given) if given else {}
    for name in given:
        if name not in names:
            raise RecipeError(f"`{side}_type` names {name!r}. The {_SIDES[side]} of the model are {list(names)}.")
    return dict(given)


class Border:
    """A quantized file whose inputs and outputs get other types.

    Between two types stands a QUANTIZE or DEQUANTIZE, by way of int8 where there is no kernel for both; a float that
    was rounded only for the border, or is rounded only behind it, goes through as it is.

    Args:
        content: the file.
        layers: tensor -> layers.
        ranges: (low, high) by tensor, for a narrower or wider type than the file's own.
    """

    def __init__(
        self,
        content: bytes,
        layers: Mapping[str, tuple[str, ...]],
        ranges: Mapping[str, tuple[float, float]],
    ):
        self._model = flatbuffer.read(content)
        self._graph = self._model.subgraphs[0]
        self._ranges = ranges
        self.layers = dict(layers)
        self.changes: list[str] = []
        signature = next((s for s in self._model.signatureDefs or [] if s.subgraphIndex == 0), None)
        self._ports = {"input": list(signature.inputs), "output": list(signature.outputs)} if signature else {}

    def content(self) -> bytes:
        return flatbuffer.write(self._model)

    def note_scales(self, fronts: Mapping[str, Front]) -> None:
        """Notes in the file what scale its inputs have before the preprocessing that became part of theirs."""
        indices = self._indices("input")
        scales = {}
        for name, front in fronts.items():
            tensor = self._graph.tensors[indices[name]]
            step, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
            scales[name] = front.scale(step, zero, np.iinfo(flatbuffer.dtype_name(tensor)).min)
        if scales:
            file_notes.write_input_scales(self._model, scales)

    def give(self, side: str, given: Types) -> None:
        """Gives the inputs or outputs their types; one type for all leaves out what holds whole numbers.

        Raises:
            RecipeError: a name that is none, or a type that one cannot have.
        """
        indices = self._indices(side)
        wanted = by_name(given, list(indices), side)
        if len({(indices[name], kind) for name, kind in wanted.items()}) > len({indices[name] for name in wanted}):
            raise RecipeError(f"`{side}_type` has two types for one tensor, which several {_SIDES[side]} are.")
        refused = {}
        for name, kind in wanted.items():
            why = self._refusal(self._graph.tensors[indices[name]], kind, side)
            if why:
                refused[name] = f"{side} {name} {why}"
        if refused and (isinstance(given, Mapping) or len(refused) == len(wanted)):
            raise RecipeError(f"`{side}_type` cannot be met: {'; '.join(refused.values())}.")
        self.changes += refused.values()
        for name, kind in wanted.items():
            if name not in refused and flatbuffer.dtype_name(self._graph.tensors[indices[name]]) != kind:
                (self._new_input if side == "input" else self._new_output)(indices[name], kind)

    def _indices(self, side: str) -> dict[str, int]:
        if self._ports:
            return {port.name.decode(): int(port.tensorIndex) for port in self._ports[side]}
        own = map(int, getattr(self._graph, _SIDES[side]))
        return {self._graph.tensors[index].name.decode(): index for index in own}

    def _refusal(self, tensor: schema.TensorT, kind: str, side: str) -> str:
        own = flatbuffer.dtype_name(tensor)
        if own == kind:
            return ""
        if own == "float32":
            reads = "reads it" if side == "input" else "makes it"
            return f"stays float32, as what {reads} computes in float, and rounding would change it"
        if own not in _INTEGERS or not self._scale(tensor):
            return f"stays {own}, as it holds whole numbers or flags, not numbers with a scale"
        return ""

    def _scale(self, tensor: schema.TensorT) -> tuple[float, int] | None:
        found = tensor.quantization
        if found is None or found.scale is None or len(found.scale) != 1:
            return None
        return float(found.scale[0]), int(found.zeroPoint[0])

    def _new_input(self, inner: int, kind: str) -> None:
        graph = self._graph
        border = self._border_of(inner, kind)
        graph.inputs = [border if int(i) == inner else int(i) for i in graph.inputs]
        for port in self._ports.get("input", ()):
            port.tensorIndex = border if port.tensorIndex == inner else port.tensorIndex
        if kind == "float32":
            floats = [op for op in graph.operators if self._is(op, "DEQUANTIZE") and int(op.inputs[0]) == inner]
            plain = {int(op.outputs[0]) for op in floats} - set(map(int, graph.outputs))
            graph.operators = [op for op in graph.operators if int(op.outputs[0]) not in plain]
            for op in graph.operators:
                op.inputs = [border if int(i) in plain else int(i) for i in op.inputs]
        read = any(inner in map(int, op.inputs) for op in graph.operators) or inner in map(int, graph.outputs)
        if read:
            graph.operators = [*self._way(border, inner), *graph.operators]

    def _new_output(self, inner: int, kind: str) -> None:
        graph = self._graph
        made = next((op for op in graph.operators if inner in map(int, op.outputs)), None)
        border = None
        if kind == "float32" and made is not None and self._is(made, "QUANTIZE"):
            source = int(made.inputs[0])
            if graph.tensors[source].type == schema.TensorType.FLOAT32:
                border = source
        if border is None:
            border = self._border_of(inner, kind)
            graph.operators = [*graph.operators, *self._way(inner, border)]
        elif not any(inner in map(int, op.inputs) for op in graph.operators):
            graph.operators = [op for op in graph.operators if op is not made]
        graph.outputs = [border if int(i) == inner else int(i) for i in graph.outputs]
        for port in self._ports.get("output", ()):
            port.tensorIndex = border if port.tensorIndex == inner else port.tensorIndex

    def _border_of(self, inner: int, kind: str) -> int:
        """A new tensor of a type, with the name of the one inside, which gets that of its type behind its own."""
        tensor = self._graph.tensors[inner]
        name = tensor.name.decode()
        border = self._tensor_like(inner, kind, tensor.name)
        own = flatbuffer.dtype_name(tensor)
        taken = {one.name.decode() for one in self._graph.tensors}
        tensor.name = flatbuffer.free_name(f"{name}/{own}", taken).encode()
        if name in self.layers:
            self.layers[tensor.name.decode()] = self.layers[name]
        if kind != "float32":
            scale = self._scale(tensor)
            assert scale is not None
            self._graph.tensors[border].quantization = self._quantization(kind, own, scale, self._ranges.get(name))
        return border

    def _tensor_like(self, index: int, kind: str, name: bytes) -> int:
        tensor = self._graph.tensors[index]
        made = flatbuffer.add_tensor(self._graph, tensor.shape, name, getattr(schema.TensorType, kind.upper()))
        self._graph.tensors[made].shapeSignature = tensor.shapeSignature
        return made

    def _quantization(self, kind: str, own: str, scale: tuple[float, int], ends) -> schema.QuantizationParametersT:
        """Scale and zero point of a type, for a tensor of another with its own."""
        step, zero = scale
        limits, inside = np.iinfo(kind), np.iinfo(own)
        if {kind, own} == {"uint8", "int8"}:
            zero = zero + int(limits.min) - int(inside.min)
        elif kind == "int16":
            step, zero = max(abs(int(e) - zero) * step for e in (inside.min, inside.max)) / int(limits.max), 0
        else:  # from 16 bits to 8
            low, high = ends or (step * int(inside.min), step * int(inside.max))
            low, high = min(low, 0.0), max(high, 0.0)
            step = (high - low) / (int(limits.max) - int(limits.min))
            zero = int(np.clip(np.round(int(limits.min) - low / step), limits.min, limits.max))
        made = schema.QuantizationParametersT()
        made.scale, made.zeroPoint = [step], [zero]
        return made

    def _way(self, first: int, last: int) -> list[schema.OperatorT]:
        """The operators from one tensor to another of other type."""
        names = [flatbuffer.dtype_name(self._graph.tensors[i]) for i in (first, last)]
        if set(names) == {"uint8", "int16"} or names == ["float32", "uint8"]:
            # Neither TensorFlow Lite nor its runtime for microcontrollers has a kernel for both ways.
            near = first if names[0] == "uint8" else last
            tensor = self._graph.tensors[near]
            scale = self._scale(tensor)
            assert scale is not None
            middle = self._tensor_like(near, "int8", tensor.name + b"/int8")
            self._graph.tensors[middle].quantization = self._quantization("int8", "uint8", scale, None)
            return [*self._way(first, middle), *self._way(middle, last)]
        if names[1] == "float32":
            kind, options = schema.BuiltinOptions.DequantizeOptions, schema.DequantizeOptionsT()
            return [flatbuffer.new_operator(self._model, "DEQUANTIZE", [first], [last], kind, options)]
        kind, options = schema.BuiltinOptions.QuantizeOptions, schema.QuantizeOptionsT()
        return [flatbuffer.new_operator(self._model, "QUANTIZE", [first], [last], kind, options)]

    def _is(self, op: schema.OperatorT, name: str) -> bool:
        return flatbuffer.operator_name(self._model, op) == name
