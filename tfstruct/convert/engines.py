"""The two quantizers behind one call: litert-quantizer, and TensorFlow's own for operators the first lacks."""

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfstruct.convert import biases, flatbuffer, plumbing
from tfstruct.convert.converter import ConverterProcess
from tfstruct.convert.recipe import Recipe
from tfstruct.errors import ConversionError, one_line
from tfstruct.forks import Lock
from tfstruct.precisions import PRECISIONS
from tfstruct.tflite_operators import operators_that, traits_of

Ranges = Mapping[str, tuple[float, float]]

_lock = Lock()  # litert-quantizer runs in one thread at a time: two of them lost each other's tensors


def quantize(
    content: bytes,
    recipe: Recipe,
    layers: Mapping[str, tuple[str, ...]],
    ranges: Ranges,
    process: Callable[[], ConverterProcess],
    limits: Mapping[str, np.ndarray] | None = None,
    exact: Collection[str] = (),
) -> tuple[bytes, str]:
    """Quantizes a float `.tflite` as the recipe says.

    Args:
        layers: tensor name -> Keras layers, from `tensor_names.rename`.
        ranges: (low, high) by tensor name.
        limits: kernel tensor -> largest magnitude by channel, see `trained.weight_limits`; litert-quantizer only.
        exact: tensors that stay float, see `plumbing.recast`.
        process: gives the converter process, which runs TensorFlow's quantizer and loads every file first.

    Returns:
        The file and the name of the engine that wrote it.
    """

    def attempt(quantizer: Callable[[], schema.ModelT]) -> _Attempt | ConversionError:
        return _attempt(quantizer, process, lambda model: len(_floats(model, layers, recipe, exact)))

    if recipe.engine == "tensorflow":
        only = attempt(lambda: _tensorflow(content, recipe, layers, ranges, process(), exact))
        if isinstance(only, ConversionError):
            raise only
        return only.content, "tensorflow"
    first = attempt(lambda: _with_biases(content, recipe, layers, ranges, limits or {}, exact))
    # TensorFlow's quantizer knows more operators, but neither int4 nor layers of their own precision.
    second_fits = (
        recipe.quantizes_activations and _tensorflow_writes(recipe) and set(recipe.layers.values()) <= {"float32"}
    )
    floats = None if isinstance(first, ConversionError) else first.floats
    if recipe.engine == "auto" and second_fits and not limits and floats != 0:
        second = attempt(lambda: _tensorflow(content, recipe, layers, ranges, process(), exact))
        if isinstance(second, _Attempt) and (floats is None or second.floats < floats):
            return second.content, "tensorflow"
    if isinstance(first, ConversionError):
        raise first
    return first.content, "litert"


class _Attempt(NamedTuple):
    """The file of a quantizer, and how many of its operators would better be integer ones."""

    content: bytes
    floats: int


def _attempt(
    quantizer: Callable[[], schema.ModelT], process: Callable[[], ConverterProcess], floats: Callable
) -> _Attempt | ConversionError:
    """The file of a quantizer if the interpreter loads it, else the error."""
    try:
        model = quantizer()
        plumbing.read_integers(model)
        plumbing.read_floats(model)
        content = flatbuffer.write(model)
        process().load(content)
    except ConversionError as error:
        return error
    return _Attempt(content, floats(model))


def unwanted_floats(
    found: list[flatbuffer.Operator], recipe: Recipe, exact: Collection[str] = ()
) -> list[flatbuffer.Operator]:
    """Operators that compute in float though neither the recipe asks for it nor the indices that they make or read;
    `exact`: see `quantize`."""
    return [
        op
        for op in flatbuffer.float_operators(found)
        if recipe.has_integers(recipe.precision_of(op.layers))
        and not (op.subgraph == 0 and (traits_of(op.name).makes_integers or set(op.outputs) & set(exact)))
    ]


def _tensorflow_writes(recipe: Recipe) -> bool:
    return "tensorflow" in PRECISIONS[recipe.precision].engines


def _floats(model: schema.ModelT, layers, recipe: Recipe, exact: Collection[str]) -> list[flatbuffer.Operator]:
    """All operators that would better be integer ones: what decides between the engines."""
    found = flatbuffer.float_operators(flatbuffer.operators(model, layers))
    return [
        op for op in found if recipe.has_integers(recipe.precision_of(op.layers)) and not set(op.outputs) & set(exact)
    ]


def _with_biases(
    content: bytes, recipe: Recipe, layers, ranges: Ranges, limits: Mapping[str, np.ndarray], exact: Collection[str]
) -> schema.ModelT:
    """What litert-quantizer writes, which does not look whether biases fit into their 32 bits: again where not."""
    source = flatbuffer.read(content)
    with _lock.held():
        made = _litert(content, source, recipe, layers, ranges, limits, exact)
        wider = biases.limits_that_fit(source, made, limits)
        return _litert(content, source, recipe, layers, ranges, {**limits, **wider}, exact) if wider else made


def _litert(
    content: bytes,
    source: schema.ModelT,
    recipe: Recipe,
    layers,
    ranges: Ranges,
    limits: Mapping[str, np.ndarray],
    exact: Collection[str],
) -> schema.ModelT:
    """What litert-quantizer makes of a float file; `source`: that file, parsed."""
    from litert_quantizer import qtyping, quantizer

    engine = quantizer.Quantizer(content)  # its constants are views of the file
    names: dict[str, list[str]] = {}
    for op in flatbuffer.operators(source, layers):
        precision = "float32" if set(op.outputs) & set(exact) else recipe.precision_of(op.layers)
        if precision != recipe.precision:
            # litert-quantizer knows an operator by its outputs, each followed by a semicolon.
            names.setdefault(precision, []).append(re.escape("".join(f"{name};" for name in op.outputs)))
    _add_rules(engine, ".*", recipe.precision, recipe)
    for precision, scopes in names.items():
        _add_rules(engine, f"^({'|'.join(scopes)})$", precision, recipe)
    if recipe.quantizes_activations:
        # Nobody sees the values inside a loop, so its body has no ranges and stays float.
        _add_rules(engine, f"^{flatbuffer.SUBGRAPH_PREFIX}", "float32", recipe)
    floats = set(exact) & set(flatbuffer.input_names(source))
    if floats:  # all inputs are one operator
        engine.update_quantization_recipe(".*", qtyping.TFLOperationName.INPUT, algorithm_key="no_quantize")
    if recipe.float_io or PRECISIONS[recipe.precision].activation_bits is None:
        for border in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            engine.update_quantization_recipe(".*", border, algorithm_key="no_quantize")
    calibration: dict[str, dict[str, np.ndarray | np.float32]]
    calibration = {name: {"min": np.float32(low), "max": np.float32(high)} for name, (low, high) in ranges.items()}
    calibration |= {name: {"min": -largest, "max": largest} for name, largest in limits.items()}
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # its interpreter warns about its own options, and it has a progress bar
            result = engine.quantize(
                calibration if engine.need_calibration else None,
                enable_progress_bar=False,
                enable_progress_report=False,
            )
    except (ValueError, RuntimeError, KeyError, IndexError, NotImplementedError) as error:
        tensor = re.search(r"tensor: (\S+?)\.", str(error))
        where = layers.get(tensor[1], ()) if tensor else ()
        place = f" at layer {', '.join(where)}" if where else ""
        raise ConversionError(
            f"litert-quantizer cannot quantize this model to {recipe.precision}{place}: "
            f"{one_line(error, 300)}. Keep that layer in float32 "
            "(Recipe(layers={pattern: 'float32'}), --keep-float), or use another precision.",
            where,
        ) from error
    made = flatbuffer.read(bytes(result.quantized_model))
    _hand_out_own(made, source)
    if floats and not recipe.float_io:
        plumbing.integer_inputs(made, exact)
    return made


def _hand_out_own(model: schema.ModelT, before: schema.ModelT) -> None:
    """Lets a quantized file give the outputs that its signature names, in the order of the file it was made of.

    Where another operator reads an output in a scale of its own, litert-quantizer hands out that copy, and the
    signature names a tensor that the interpreter does not keep.
    """
    graph, order = model.subgraphs[0], [int(i) for i in before.subgraphs[0].outputs]
    for made, own in zip(model.signatureDefs or [], before.signatureDefs or [], strict=True):
        places = {port.name: order.index(port.tensorIndex) for port in own.outputs} if own.subgraphIndex == 0 else {}
        for port in made.outputs if places else ():
            place = places[port.name]
            handed = int(graph.outputs[place])
            if handed != port.tensorIndex:
                if graph.tensors[handed].type == graph.tensors[port.tensorIndex].type:
                    graph.outputs = [port.tensorIndex if i == place else int(o) for i, o in enumerate(graph.outputs)]
                else:
                    port.tensorIndex = handed


def _add_rules(engine, regex: str, precision: str, recipe: Recipe) -> None:
    """The rules that give the operators matching `regex` a precision; later rules win."""
    from litert_quantizer.algorithm_manager import AlgorithmName
    from litert_quantizer.qtyping import QuantGranularity
    from litert_quantizer.qtyping import TFLOperationName as Op

    whole = QuantGranularity.TENSORWISE  # a matrix product has one scale for each side, a constant one too
    found = PRECISIONS[precision]
    few = operators_that(lambda traits: "int4" in traits.weights) if found.weight_bits == 4 else ()
    if precision == "float32":
        engine.update_quantization_recipe(regex, Op.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE)
    elif precision == "float16":
        engine.add_weight_only_config(regex, Op.ALL_SUPPORTED, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    elif recipe.has_integers(precision):
        engine.add_static_config(regex, Op.ALL_SUPPORTED, found.activation_bits, 8)
        engine.add_static_config(regex, Op.BATCH_MATMUL, found.activation_bits, 8, whole)
        for op in few:
            engine.add_static_config(regex, Op[op], found.activation_bits, 4)
    else:
        engine.add_dynamic_config(regex, Op.ALL_SUPPORTED, 8)
        for op in few:
            engine.add_dynamic_config(regex, Op[op], 4)


def _tensorflow(
    content: bytes, recipe: Recipe, layers, ranges: Ranges, process: ConverterProcess, exact: Collection[str]
) -> schema.ModelT:
    found = flatbuffer.operators(content, layers)
    own = {name: op for op in found for name in op.outputs}
    keep = [
        name
        for name, op in own.items()
        if recipe.precision_of(op.layers) == "float32" or op.name == "CAST" or set(op.outputs) & set(exact)
    ]
    ranged = flatbuffer.set_ranges(content, plumbing.shared_choices(content, ranges))
    # It has one type for all inputs.
    floats = set(exact) & set(flatbuffer.input_names(content))
    float_input = recipe.float_io or bool(floats)

    def made(keep: list[str]) -> bytes:
        return process.quantize(
            ranged, recipe.precision, float_input=float_input, float_output=recipe.float_io, keep=keep
        )

    result = made(keep)
    if float_input:
        # It rounds what reads the input in float, unless that is known to stay so.
        left = [name for name in _left_in_float(result) if name in own and name not in keep]
        result = made([*keep, *left]) if left else result
    if PRECISIONS[recipe.precision].activation_bits == 16:
        result = biases.in_64_bits(result)
    model = flatbuffer.read(result)
    if floats and not recipe.float_io:
        plumbing.integer_inputs(model, exact)
    return model


def _left_in_float(content: bytes) -> list[str]:
    """Names of what the operators in float make, and of the integers made of that: either has the name of before."""
    found = flatbuffer.operators(content)
    integers_of = {op.inputs[0]: op.outputs[0] for op in found if op.name == "QUANTIZE"}
    made = [name for op in flatbuffer.float_operators(found) for name in op.outputs]
    return [*made, *(integers_of[name] for name in made if name in integers_of)]
