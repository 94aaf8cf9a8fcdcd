"""A float `.tflite` file as the source of a conversion, where its Keras model is lost or never was one."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tfstruct.convert import engines, flatbuffer, tensor_names, trained
from tfstruct.convert.converter import ConverterProcess
from tfstruct.convert.export import Signature
from tfstruct.convert.flatbuffer import schema
from tfstruct.convert.ports import ports_of
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.source import FloatFile, Layers, OfSamples, Ranges, Stage
from tfstruct.errors import ConversionError, RecipeError
from tfstruct.patterns import matches
from tfstruct.samples import Sample, TensorSpec
from tfstruct.tflite_operators import traits_of

_HALF = schema.TensorType.FLOAT16
_SAID = (
    "{} (a .tflite file: what is said of Keras is said of that file; layers were neither opened nor rewritten, and the "
    "scale of the data was not compared with that of the training)"
)


class FileSource(OfSamples):
    """See `source.Source`: a file is taken as data, and loaded in a process of its own first.

    Args:
        content: the file.
        name: what reports call it.

    Raises:
        ConversionError: no float `.tflite`, a damaged one, or one that the interpreter does not load.
    """

    def __init__(self, content: bytes, name: str, process: Callable[[], ConverterProcess], stage: Stage):
        self.name, self._process, self._stage = name, process, stage
        model = flatbuffer.read(content)
        _refuse_integers(model)
        _widen_halves(model)
        self._layers = tensor_names.tidied(model)
        self.parameters = sum(
            int(np.prod(tensor.shape)) if tensor.shape is not None and len(tensor.shape) else 1
            for graph in model.subgraphs
            for tensor in graph.tensors
            if tensor.type == schema.TensorType.FLOAT32 and flatbuffer.is_constant(model, tensor)
        )
        self._content = flatbuffer.write(model)
        self._loaded = False
        self._fixed: bytes | None = None  # with a batch of 1, and what follows from its sizes

    def signature(self, recipe: Recipe) -> Signature:
        self._load()
        return signature_of_file(self._in_batches(recipe))

    @contextlib.contextmanager
    def completed(self, recipe: Recipe) -> Iterator[Recipe]:
        yield recipe

    def check(self, recipe: Recipe) -> None:
        names = {layer for layers in self._layers.values() for layer in layers}
        for pattern in recipe.layers:
            if not any(matches(pattern, name) for name in names):
                raise RecipeError(
                    f"The pattern {pattern!r} matches no tensor of {self.name!r}, which stand for its layers. It has: "
                    f"{', '.join(list(names)[:8])}{', ...' if len(names) > 8 else ''}."
                )
        known = {*names, *(port.name for port in ports_of(self._content)[0])}
        unknown = [name for name in recipe.ranges if name not in known]
        if unknown:
            raise RecipeError(f"`ranges` names {unknown}, which are no tensors or inputs of {self.name!r}.")
        if recipe.weight_limits:
            raise RecipeError("`weight_limits` name weights of a Keras model. Leave them out for a .tflite file.")

    def float_file(self, recipe: Recipe) -> FloatFile:
        content = self._in_batches(recipe)
        signature = signature_of_file(content)
        outputs = tuple(port.name for port in ports_of(content)[1])
        return FloatFile(content, self._layers, signature.inputs, outputs, signature.batch)

    def float16_file(self, recipe: Recipe) -> tuple[bytes, dict[str, tuple[str, ...]]]:
        with self._stage("quantize"):
            made, _ = engines.quantize(self._in_batches(recipe), recipe, self._layers, {}, self._process)
        return made, self._layers

    def check_scale(self, signature: Signature, samples: Sequence[Sample], *, as_is: bool) -> list[str]:
        """Nothing is known of the training."""
        return []

    def ranges_of_layers(self, reference: bytes, layers: Layers, observed: Ranges, recipe: Recipe) -> Ranges:
        return trained.by_tensor(reference, layers, recipe.ranges, observed, recipe)

    def weight_limits(
        self, reference: bytes, layers: Layers, recipe: Recipe
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        return {}, []

    def said(self, recipe: Recipe) -> dict:
        return {"source": _SAID.format(self.name)}

    def _load(self) -> None:
        if not self._loaded:
            with self._stage("load"):
                self._process().load(self._content)
            self._loaded = True

    def _in_batches(self, recipe: Recipe) -> bytes:
        """The file with the batch of a recipe, where its own is open."""
        inputs, _ = ports_of(self._content)
        if recipe.input_shapes:
            raise RecipeError("`input_shapes` fill in open sizes of a Keras model. A .tflite file keeps its own.")
        for port in inputs:
            if not port.shape:
                raise ConversionError(f"Input {port.name!r} is one number. Expected inputs with a batch axis.")
            if None in port.shape[1:] and recipe.batch_size is not None:
                raise RecipeError(
                    f"Input {port.name!r} has open sizes besides the batch: {port.shape}. Use batch_size=None "
                    "(--batch-size dynamic), which leaves them open, or convert to a float file of fixed sizes first."
                )
        sizes = {port.shape[0] for port in inputs}
        if recipe.batch_size not in (*sizes, None, 1):
            raise RecipeError(
                f"`batch_size` is {recipe.batch_size}, but the file has {sorted(map(str, sizes))}. Expected 1, or None "
                "for that of the file."
            )
        if recipe.batch_size is None and any(None in port.shape for port in inputs):
            return self._content
        if self._fixed is None:
            self._fixed = _of_fixed_sizes(self._content)
        return self._fixed


def signature_of_file(content: bytes) -> Signature:
    """How to call a file: its inputs without their batch axis, and what runs it."""
    inputs, _ = ports_of(content)
    runtime: list[Runtime] = []

    def call(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not runtime:
            runtime.append(Runtime(content))
        return runtime[0].run_all({name: np.asarray(value) for name, value in batch.items()})

    specs = tuple(
        TensorSpec(port.name, port.shape[1:], "float32" if port.scale else port.dtype.name) for port in inputs
    )
    return Signature(specs, inputs[0].shape[0] if inputs and inputs[0].shape else None, call, traceable=False)


def _refuse_integers(model: schema.ModelT) -> None:
    """Refuses a file that was quantized: what it has lost cannot be measured or brought back."""
    for op in flatbuffer.operators(model):
        graph = model.subgraphs[op.subgraph]
        tensors = [graph.tensors[i] for i in graph.operators[op.index].inputs if i >= 0]
        if any(
            t.quantization is not None and t.quantization.scale is not None and len(t.quantization.scale)
            for t in tensors
        ):
            raise ConversionError(
                f"Expected a float .tflite file. Received one that is quantized already: {op} reads integers with a "
                "scale. Give the float file that it was made from."
            )
        if not flatbuffer.is_builtin(op.name):
            raise ConversionError(f"The .tflite file has the custom operator {op}, which quantizers do not know.")


def _widen_halves(model: schema.ModelT) -> None:
    """Constants of 16 bits that a DEQUANTIZE makes float32 are stored as such, as quantizers take them."""
    for graph in model.subgraphs:
        kept, plain = [], {}
        for operator in graph.operators:
            half = graph.tensors[operator.inputs[0]] if len(operator.inputs) else None
            widens = flatbuffer.operator_name(model, operator) == "DEQUANTIZE"
            if half is None or not widens or half.type != _HALF or not flatbuffer.is_constant(model, half):
                kept.append(operator)
                continue
            values = flatbuffer.constant(model, half, np.float16).astype(np.float32)
            made = flatbuffer.add_constant(model, graph, values, half.name, schema.TensorType.FLOAT32)
            plain[int(operator.outputs[0])] = made
        graph.operators = kept
        for operator in kept:
            operator.inputs = [plain.get(int(i), int(i)) for i in operator.inputs]


def _of_fixed_sizes(content: bytes) -> bytes:
    """The file with a batch of 1 where its own is open, and with constants in place of what is computed of sizes and
    constants alone: quantizers have no integers for it."""
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        tensor.shapeSignature = None  # the shape itself has 1 where the signature is open
    known = {i for i, tensor in enumerate(graph.tensors) if flatbuffer.is_constant(model, tensor)}
    outputs = set(map(int, graph.outputs))
    found: list[int] = []
    kept = []
    for op in graph.operators:
        name = flatbuffer.operator_name(model, op)
        read = {int(i) for i in op.inputs if i >= 0}
        made = {int(i) for i in op.outputs}
        traits = traits_of(name)
        follows = name == "SHAPE" or (bool(read) and read <= known and traits.alone and not traits.random)
        if follows and not made & outputs:
            known |= made
            found += sorted(made)
        else:
            kept.append(op)
    fixed = flatbuffer.write(model)
    if not found:
        return fixed
    runtime = Runtime(fixed, intermediates=True)
    runtime.run({port.name: port.zeros() for port in runtime.inputs})
    read = {int(i) for op in kept for i in op.inputs}
    for index in found:
        tensor = graph.tensors[index]
        value = runtime.tensor(tensor.name.decode()) if index in read else None
        if value is not None:
            tensor.shape = list(value.shape)
            tensor.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            flatbuffer.set_constant(model, tensor, value)
        elif index in read:
            return fixed
    graph.operators = kept
    return flatbuffer.write(model)
