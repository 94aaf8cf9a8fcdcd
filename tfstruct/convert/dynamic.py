"""Files whose batch or sizes are open on request: what is opened, tried at two sizes, and why a layer refuses."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.export import Signature
from tfstruct.convert.ports import ports_of
from tfstruct.convert.recipe_data import random_samples
from tfstruct.convert.runtime import shapes_at
from tfstruct.convert.verification import Verification
from tfstruct.errors import ConversionError, RecipeError, first_line
from tfstruct.graph import Replay, trace
from tfstruct.graph.layer_tree import intercepted, layer_paths
from tfstruct.keras_internals.graph_nodes import names_of
from tfstruct.reporting.tables import shape as sizes
from tfstruct.samples import Sample, TensorSpec

if TYPE_CHECKING:
    from tfstruct.convert.recipe import Recipe

_BATCHES = (1, 3)
_TRIED = 4  # samples at another size
_NODE = re.compile(r"Node number (\d+) \((\w+)\)")
_ADVICE = "Global pooling in place of Flatten takes any size. Leave `dynamic` out, or open less of it."


@dataclasses.dataclass(frozen=True)
class SizeCheck:
    """A comparison of file and Keras model at one size.

    Attributes:
        what: went in, with the batch: `"image 1 x 96 x 96 x 3"`.
        verification: what was found.
    """

    what: str
    verification: Verification

    def doubts(self, usual: Verification) -> list[str]:
        """A line where the file falls short at this size, and at that of the samples it does not."""
        if usual.is_low or not self.verification.is_low:
            return []
        figures = self.verification.figures()
        return [
            f"at {self.what} the file is further from the model than at the size of the data: SQNR "
            f"{figures['sqnr_db']:.1f} dB, there {usual.figures()['sqnr_db']:.1f} dB. Calibrate on data of both sizes"
        ]

    def __str__(self) -> str:
        figures = self.verification.figures()
        sqnr = figures["sqnr_db"]
        said = "exact" if sqnr == float("inf") else f"SQNR {sqnr:.1f} dB"
        return f"{self.what}: {said}, max error {figures['max_abs_error']:.3g}"


def opens_sizes(recipe: "Recipe") -> bool:
    """Whether sizes besides the batch shall be open."""
    return recipe.dynamic in ("sizes", "all")


def opened_model(model: keras.Model) -> keras.Model:
    """A model that takes inputs of any size along every axis but the last, on copies of its layers; the model itself
    where it takes them already.

    Raises:
        RecipeError: a model without a graph, or a layer that needs the size it was built for.
    """
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise RecipeError(
            f"`dynamic` sizes need a Sequential or functional model. {model.name!r} is subclassed: build it on open "
            "sizes, x = keras.Input((None, None, 3)); model = keras.Model(x, model(x))."
        )
    shapes = [_opened(tuple(x.shape[1:]), x.dtype) for x in inputs]
    if not any(None in shape for shape in shapes):
        raise RecipeError(f"`dynamic` sizes: the inputs of {model.name!r} are vectors, which have no size to open.")
    if all(tuple(x.shape[1:]) == shape for x, shape in zip(inputs, shapes, strict=True)):
        return model
    made = [
        keras.Input(batch_shape=(x.shape[0], *shape), dtype=x.dtype, name=name)
        for name, x, shape in zip(names_of(inputs), inputs, shapes, strict=True)
    ]
    at: list[str] = []

    def noted(call, run, *args, **kwargs):
        at[:] = [call.path]
        return run(*args, **kwargs)

    try:
        graph = trace(model)
        replay = Replay(graph, dict.fromkeys((id(call.op) for call in graph.calls), noted))
        outputs = replay.outputs(made)
    except Exception as error:  # a layer may raise anything while it is built
        where = f"the layer {at[0]!r} needs the size that it was built for: " if at else ""
        raise RecipeError(f"`dynamic` sizes: {where}{_reason(error)}. {_ADVICE}") from error
    named = dict(zip(graph.output_names, outputs, strict=True))
    structure = named if isinstance(model.output, Mapping) or len(outputs) > 1 else outputs[0]
    found = keras.Model(made if len(made) > 1 else made[0], structure, name=model.name)
    replay.copy_weights()
    return found


def _opened(shape: tuple[int | None, ...], dtype: str) -> tuple[int | None, ...]:
    """Of one sample: all but the channels; of ids, which have none, all."""
    if len(shape) > 1:
        return (*(None for _ in shape[:-1]), shape[-1])
    return (None,) if len(shape) == 1 and "int" in dtype else shape


def usual_sizes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """By input, the sizes of a model that fixes them."""
    inputs = getattr(model, "inputs", None) or []
    shapes = {name: tuple(x.shape[1:]) for name, x in zip(names_of(inputs), inputs, strict=True)}
    return {name: shape for name, shape in shapes.items() if None not in shape}


def with_usual_sizes(content: bytes, specs: Sequence[TensorSpec], usual: Mapping[str, tuple[int, ...]]) -> bytes:
    """A float file whose tensors have the shapes of usual inputs where they are open: with the ones that the converter
    writes there, many operators cannot even be prepared, and costs are those of nothing."""
    if not all(spec.name in usual for spec in specs):
        return content
    found = shapes_at(content, {p.name: (p.shape[0] or 1, *usual[p.name]) for p in ports_of(content)[0]})
    model = flatbuffer.read(content)
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        shape = found.get(index, ())
        if not flatbuffer.is_constant(model, tensor) and tensor.shape is not None and len(tensor.shape) == len(shape):
            tensor.shapeSignature = flatbuffer.shape_signature(tensor)
            tensor.shape = list(shape)
    return flatbuffer.write(model)


def require_any_size(
    model: keras.Model, specs: Sequence[TensorSpec], usual: Mapping[str, tuple[int, ...]], call: Callable
) -> None:
    """Calls a model of open sizes on random samples, twice as large as usual, before it is converted.

    Raises:
        RecipeError: a layer refuses them.
    """
    if all(spec.name in usual for spec in specs):
        first = random_samples(Signature(tuple(specs), None, call, sizes=usual), 1)[0]
        larger = _doubled(first, specs)
        with _layers_named(model, _what(specs, [larger], 1)):
            call({name: value[None] for name, value in larger.inputs.items()})


def checked(
    recipe: "Recipe",
    specs: Sequence[TensorSpec],
    content: bytes,
    layers: Mapping[str, tuple[str, ...]],
    samples: Sequence[Sample],
    model: keras.Model,
    compare: Callable[[bytes, Sequence[Sample], str], Verification],
) -> tuple[SizeCheck, ...]:
    """Compares file and model at other sizes than those of the samples: twice as large, in batches of one and three.

    Raises:
        RecipeError: a layer of the model refuses another size.
        ConversionError: the file has a fixed size all the same, or an operator of it refuses another one.
    """
    _require_open(recipe, content)
    few = list(samples[:_TRIED])
    cases: list[tuple[str, list[Sample]]] = []
    if recipe.batch_size is None:
        cases += [(_what(specs, few[:1] * n, n), (few * n)[:n]) for n in _BATCHES]
    if opens_sizes(recipe):
        larger = [_doubled(sample, specs) for sample in few]
        cases.append((_what(specs, larger, recipe.batch_size or len(larger)), larger))
    found = []
    for what, tried in cases:
        with _layers_named(model, what):
            try:
                found.append(SizeCheck(what, compare(content, tried, f"other sizes: {what}")))
            except ConversionError as error:
                raise _refused(error, content, layers, what) from error
    return tuple(found)


def _require_open(recipe: "Recipe", content: bytes) -> None:
    for port in ports_of(content)[0]:
        fixed = opens_sizes(recipe) and len(port.shape) > 2 and None not in port.shape[1:]
        if fixed or (recipe.batch_size is None and port.shape and port.shape[0] is not None):
            raise ConversionError(
                f"The file fixes the input {port.name!r} at {sizes(port.shape)}; `dynamic` is {recipe.dynamic!r}."
            )


def _doubled(sample: Sample, specs: Sequence[TensorSpec]) -> Sample:
    """A sample twice as large where sizes are open: its values once more behind themselves."""
    made = dict(sample.inputs)
    for spec in specs:
        value = made[spec.name]
        repeats = [2 if size is None else 1 for size in spec.shape]
        made[spec.name] = np.tile(value, repeats) if repeats else value
    return Sample(made, None)


def _what(specs: Sequence[TensorSpec], samples: Sequence[Sample], batch: int) -> str:
    first = samples[0].inputs
    return ", ".join(f"{spec.name} {sizes((batch, *first[spec.name].shape))}" for spec in specs)


@contextlib.contextmanager
def _layers_named(model: keras.Model, what: str) -> Iterator[None]:
    """While it is open, an error inside of a layer's call names the innermost layer."""
    inner: list[str] = []

    def route(path: str, op: Any, call: Callable):
        def run(*args, **kwargs):
            try:
                return call(*args, **kwargs)
            except Exception:
                inner.append(path)
                raise

        return run

    with intercepted(layer_paths(model), route):
        try:
            yield
        except ConversionError:
            raise
        except Exception as error:
            where = f"the layer {inner[0]!r}" if inner else "the model"
            raise RecipeError(f"`dynamic`: {where} does not take {what}: {_reason(error)}. {_ADVICE}") from error


def _refused(error: ConversionError, content: bytes, layers: Mapping[str, tuple[str, ...]], what: str):
    """The interpreter's error with the layer of the operator that it names."""
    node = _NODE.search(str(error))
    operators = [op for op in flatbuffer.operators(content, layers) if op.subgraph == 0]
    if node is None or int(node[1]) >= len(operators):
        return ConversionError(f"`dynamic`: the file does not take {what}: {error}", error.layers)
    op = operators[int(node[1])]
    return ConversionError(
        f"`dynamic`: {op} does not take {what}: {str(error).split(': ', 1)[-1].rstrip('.')}. {_ADVICE}", op.layers
    )


def _reason(error: Exception) -> str:
    return first_line(error)[:300].rstrip(".")
