"""Ranges of activations and limits of weights that training found, by layer, put on the tensors of a file."""

import types
from collections import Counter
from collections.abc import Callable, Collection, Mapping

import keras
import numpy as np

from tfstruct.convert import calibrate, flatbuffer
from tfstruct.convert.recipe import Recipe
from tfstruct.errors import ModelError, RecipeError
from tfstruct.graph import trace
from tfstruct.graph.kernels import Kernel, kernels
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.keras_internals.graph_nodes import calls_of
from tfstruct.quantize.rounding_points import RoundingPoints
from tfstruct.quantize.twin import Twin
from tfstruct.tflite_operators import traits_of

Range = tuple[float, float]
# What ends such a key is the value that enters an activation which is an operator of its own.
BEFORE = "/pre_activation"
# Weights below it are as good as zero; what float32 holds of them says nothing about what they were.
_NO_WEIGHT = 1e-30


def recipe_of(twin: Twin, recipe: Recipe) -> Recipe:
    """The recipe with the precision, ranges and limits that a twin was trained with; what it says itself goes first.

    Raises:
        RecipeError: it asks for another precision.
    """
    scheme = twin.scheme
    precision = scheme.file_of(scheme.precision)
    if recipe.precision not in ("float32", precision):
        raise RecipeError(
            f"The twin was trained for {scheme.precision}, whose file is {precision}. The recipe asks for "
            f"{recipe.precision}."
        )
    layers = {pattern: scheme.file_of(found) for pattern, found in scheme.layers.items()}
    return recipe.replace(
        precision=precision,
        layers={**layers, **recipe.layers},
        ranges={**twin.ranges(), **recipe.ranges},
        weight_limits={**twin.weight_limits(), **recipe.weight_limits},
        # Training has rounded to nearest.
        rounding="nearest" if recipe.rounding == "auto" else recipe.rounding,
    )


def names_inside(ranges: Mapping[str, Range], model: keras.Model) -> bool:
    """Whether ranges name what no layer or input of a model is: operations that a twin has opened its layers into."""
    if not ranges:
        return False
    known = {*layer_paths(model), *(x.name for x in getattr(model, "inputs", None) or ())}
    return not all(name.removesuffix(BEFORE) in known for name in ranges)


def by_tensor(
    content: bytes,
    layers: Mapping[str, tuple[str, ...]],
    given: Mapping[str, Range],
    observed: Mapping[str, Range],
    recipe: Recipe,
    calls: Callable[[str], int] = lambda path: 1,
    norms: Mapping[str, str] = types.MappingProxyType({}),
    holders: Mapping[str, Collection[str]] = types.MappingProxyType({}),
) -> dict[str, Range]:
    """(low, high) by tensor of a float file.

    A layer's range goes to the last tensor that the layer makes; a layer whose result was fused into a later
    layer's has no tensor, so its range is not needed. Other tensors take what calibration observed; where there
    is none, the range of the tensor that a moving operator (RESHAPE, PAD, CONCATENATION, ...) read or wrote.

    Args:
        content: the float file, with the names of `tensor_names.rename`.
        layers: tensor -> layers fused into it, the last one last.
        given: layer path or input name -> (low, high); see `Recipe.ranges`.
        observed: tensor -> (low, high) from calibration.
        calls: how often the model calls the layer at a path; a shared layer's range goes to what each call makes.
        norms: path of a layer -> that of the batch norm which becomes part of it. One that adds nothing leaves no
            tensor of its name: what the layer makes is then its result.
        holders: of layers whose last tensor may be another one than their result, which became part of a later
            operator: the tensors that are their results. What else such a layer makes has what calibration observed,
            but for what enters its activation.

    Raises:
        RecipeError: an unknown layer, or tensors left without a range; it lists their layers.
    """
    operators = [op for op in flatbuffer.operators(content, layers) if op.subgraph == 0]
    made = {name: op for op in operators for name in op.outputs}
    inputs = {name for op in operators for name in op.inputs if name not in made}
    out: dict[str, Range] = {name: given[name] for name in inputs if name in given}
    by_layer: dict[str, list[str]] = {}
    for name in made:
        if layers.get(name):
            by_layer.setdefault(layers[name][-1], []).append(name)
    alone = {path: norm for path, norm in norms.items() if path in by_layer and norm not in by_layer}
    given = {**{path: given[norm] for path, norm in alone.items() if norm in given}, **given}
    made_inside = {
        path: name
        for path, name in _made_inside(made, layers, given, calls).items()
        if name in holders.get(path, (name,))
    }
    model = flatbuffer.read(content)
    before = _before_activations(model, made, by_layer)
    for path, names in by_layer.items():
        ends = _ends([made[name].name for name in names], calls(path))
        if path in holders:
            ends = {i for i, name in enumerate(names) if name in holders[path]}
        for i, name in enumerate(names):
            # A batch norm whose sum is part of the activation behind it ends with its product.
            key = path if i in ends and path in given else path + BEFORE
            if key in made_inside:
                continue
            if key in given and (i in ends or name in before):
                out[name] = given[key]
    out.update({name: given[path] for path, name in made_inside.items()})
    _spread(operators, out)  # what is only moved in one layer has its range, whatever was observed
    for name, op in made.items():
        fixed = traits_of(op.name).output_range
        if fixed is not None:
            out.setdefault(name, fixed)
    out = {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in {**observed, **out}.items()}
    _spread(operators, out)
    floats = set(calibrate.activation_names(content))
    _spread_before_sums(model, floats, operators, out)
    integer = [op for op in operators if op.is_float and recipe.has_integers(recipe.precision_of(op.layers))]
    missing = [op for op in integer if any(name not in out for name in floats & {*op.inputs, *op.outputs})]
    if missing:
        places = dict.fromkeys(str(op) for op in missing if any(name not in out for name in op.outputs))
        inside = all(op.layers and op.layers[-1] in {**given, **holders} for op in missing)
        raise RecipeError(
            f"`ranges` says nothing about {len(places)} results that become integers: {'; '.join(list(places)[:8])}. "
            "Give calibration data for them (Recipe(calibration=...), --calibration DATA), "
            + ("" if inside else "add their layers to `ranges`, ")
            + "or keep them in float32 (Recipe(layers={pattern: 'float32'}), --keep-float)."
        )
    return out


def _before_activations(model, made: Mapping[str, flatbuffer.Operator], by_layer: Mapping[str, list[str]]) -> set[str]:
    """The tensors that may be what enters the activation of their layer: of a layer with a kernel what its operator
    makes, unless it holds an activation itself, as the first of `hard_sigmoid`'s operators does: relu6(x + 3)."""
    graph = model.subgraphs[0]
    found: set[str] = set()
    for names in by_layer.values():
        kernels = [name for name in names if traits_of(made[name].name).kernel is not None]
        for name in kernels or names:
            options = graph.operators[made[name].index].builtinOptions
            fused = bool(kernels) and bool(getattr(options, "fusedActivationFunction", 0))
            if not fused and traits_of(made[name].name).output_range is None:
                found.add(name)
    return found


def calls_by_path(model: keras.Model) -> Callable[[str], int]:
    """How often a model calls the layer at a path, those around it called several times too."""
    try:
        found = Counter(call.path for call in trace(model).calls)
    except ModelError:  # its `call` is its own
        paths = layer_paths(model)
        return lambda path: len(calls_of(paths[path])) if path in paths else 1

    def count(path: str) -> int:
        while path and path not in found:  # a layer inside of another
            path = path.rpartition("/")[0]
        return found.get(path, 1)

    return count


def folded_norms(model: keras.Model) -> dict[str, str]:
    """Path of a layer -> path of the batch norm that becomes part of it."""
    try:
        points = RoundingPoints(trace(model))
    except ModelError:  # its `call` is its own
        return {}
    return {points.paths[key]: points.paths[id(norm)] for key, norm in points.folds.items() if norm is not None}


def _made_inside(made, layers, given: Mapping[str, Range], calls) -> dict[str, str]:
    """Path of a layer whose result is that of a layer inside of it, as an attention's is -> the tensor."""
    last: dict[str, tuple[str, str]] = {}
    for name in made:
        path = layers[name][-1] if layers.get(name) else ""
        around = path
        while around:
            last[around] = path, name
            around = around.rpartition("/")[0]
    return {
        path: name
        for path, (inner, name) in last.items()
        if path in given and inner != path and inner not in given and calls(path) == 1
    }


def _ends(kinds: list[str], calls: int) -> set[int]:
    """Which of the operators that a layer became make its result: the last one, or the last one of each call."""
    for count in range(calls, 1, -1):
        size, rest = divmod(len(kinds), count)
        if not rest and kinds == kinds[:size] * count:
            return set(range(size - 1, len(kinds), size))
    return {len(kinds) - 1}


def weight_limits(
    content: bytes,
    layers: Mapping[str, tuple[str, ...]],
    model: keras.Model,
    given: Mapping[str, tuple[float, ...]],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Largest magnitude by kernel tensor of a float file, one an output channel, the other axes of length 1.

    Folding batch norm multiplies each channel of a kernel, and its trained limit with it: what stays is the ratio
    of the limit to the channel's largest weight.

    Args:
        content, layers: as in `by_tensor`.
        model: the Keras model that the file came from.
        given: see `Recipe.weight_limits`.

    Returns:
        The limits, and the names in `given` for which the file has no kernel.
    """
    parsed = flatbuffer.read(content)
    graph = parsed.subgraphs[0]
    known = [k for k in kernels(model, depthwise=True) if k.name in given] if given else []
    out: dict[str, np.ndarray] = {}
    used: set[str] = set()
    for op in flatbuffer.operators(content, layers):
        traits = traits_of(op.name)
        place = traits.kernel
        tensor = None if op.subgraph or place is None else graph.tensors[graph.operators[op.index].inputs[place]]
        # A table has the range of what is looked up in it.
        if tensor is None or traits.looks_up or not flatbuffer.is_constant(parsed, tensor):
            continue
        stored = np.abs(flatbuffer.constant(parsed, tensor))
        axis = traits.out_axis % stored.ndim
        rows = np.moveaxis(stored, axis, 0).reshape(stored.shape[axis], -1)
        own = [kernel for kernel in known if kernel.name.rpartition("/")[0] in op.layers]
        # A model's last operator knows its last layer only.
        kernel = next((k for k in (*own, *known) if _same_up_to_factors(rows, _rows(k))), None)
        if kernel is None:
            continue
        largest = _rows(kernel).max(axis=1)
        limit = np.broadcast_to(given[kernel.name], largest.shape)
        room = np.divide(limit, largest, out=np.ones_like(largest), where=largest > _NO_WEIGHT)
        shape = [-1 if i == axis else 1 for i in range(stored.ndim)]
        out[tensor.name.decode()] = (rows.max(axis=1) * room).reshape(shape).astype(np.float32)
        used.add(kernel.name)
    return out, [name for name in given if name not in used]


def _rows(kernel: Kernel) -> np.ndarray:
    """Magnitudes, one row for each output channel."""
    return np.abs(kernel.view(np.asarray(kernel.variable)).reshape(-1, kernel.shape[-1])).T


def _same_up_to_factors(stored: np.ndarray, ours: np.ndarray) -> bool:
    """Whether each row has the same magnitudes, in any order, but for a factor; those of a row of zeros fit any."""
    if stored.shape != ours.shape:
        return False
    alive = (stored.max(axis=1) > _NO_WEIGHT) & (ours.max(axis=1) > _NO_WEIGHT)
    one, other = (np.sort(rows[alive], axis=1) / rows[alive].max(axis=1, keepdims=True) for rows in (stored, ours))
    return np.allclose(one, other, atol=1e-4)


def clipped(content: bytes, limits: Mapping[str, np.ndarray]) -> bytes:
    """The float file with the kernels that have limits within them: a quantizer would go one integer further."""
    model = flatbuffer.read(content)
    for tensor in model.subgraphs[0].tensors:
        limit = limits.get(tensor.name.decode())
        if limit is not None:
            kernel = flatbuffer.constant(model, tensor)
            flatbuffer.set_constant(model, tensor, np.clip(kernel, -limit, limit))
    return flatbuffer.write(model)


def _spread(operators: list[flatbuffer.Operator], ranges: dict[str, Range]) -> None:
    """Passes ranges on through moving operators, forwards and backwards, until nothing is added."""
    before = -1
    while before != len(ranges):
        before = len(ranges)
        for op in operators:
            traits = traits_of(op.name)
            if traits.moves or (traits.same_scale and not traits.joins):
                known = [ranges[name] for name in (*op.outputs, *op.inputs) if name in ranges]
                if known:
                    widest = (min(low for low, _ in known), max(high for _, high in known))
                    for name in (*op.inputs, *op.outputs):
                        ranges.setdefault(name, widest)


def _spread_before_sums(
    model, floats: Collection[str], operators: list[flatbuffer.Operator], ranges: dict[str, Range]
) -> None:
    """What a bias is added to by an operator of its own has the range of the sum, without the bias."""
    graph = model.subgraphs[0]
    for op in operators:
        if traits_of(op.name).joins != "add" or len(op.inputs) != 1 or op.inputs[0] not in floats:
            continue
        tensors = [graph.tensors[i] for i in graph.operators[op.index].inputs]
        constants = [flatbuffer.constant(model, t) for t in tensors if flatbuffer.is_constant(model, t)]
        if len(constants) == 1 and op.outputs[0] in ranges:
            low, high = ranges[op.outputs[0]]
            ranges.setdefault(op.inputs[0], (low - float(constants[0].max()), high - float(constants[0].min())))
