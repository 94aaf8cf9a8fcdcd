"""Recurrent layers of a streaming int8 file in 16 bits, and states in the precision that they are computed in."""

import keras

from tfstruct.convert import flatbuffer
from tfstruct.convert.ports import ports_of
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.source import FloatFile
from tfstruct.precisions import PRECISIONS
from tfstruct.reporting.tables import named
from tfstruct.streaming import StreamPlan
from tfstruct.streaming.recurrent import KEPT

_WIDE = "int16x8"


def with_wide_recurrence(recipe: Recipe, model: keras.Model, widens: bool = True) -> tuple[Recipe, tuple[str, ...]]:
    """A recipe with 16 bits for the recurrent layers of an int8 file that it does not name, as a state is computed from
    itself in each call, so that rounding it, or a product with it, to 8 bits adds up. And a line about it for the
    report.

    Args:
        model: of one call.
        widens: False leaves all layers in the precision that the recipe gives them.
    """
    own = [layer.name for layer in model.layers if isinstance(layer, keras.layers.RNN)]
    wide: list[str] = []
    # TensorFlow's quantizer has one precision for all layers.
    if widens and recipe.precision == "int8" and recipe.engine != "tensorflow":
        assumed = recipe.replace(layers={**dict.fromkeys(own, _WIDE), **recipe.layers})
        wide = [name for name in own if assumed.precision_of((name,)) == _WIDE != recipe.precision_of((name,))]
    layers = {**dict.fromkeys(wide, _WIDE), **recipe.layers}
    whole = recipe.replace(layers=layers)
    for layer in model.layers:  # what sets a state to zero before the start goes with its layer
        for name in own:
            if layer.name == f"{name}_{KEPT}" or layer.name.startswith(f"{name}_{KEPT}_"):
                layers[layer.name] = whole.precision_of((name,))
    said = (
        f"{named(wide, 8)} in int16x8, with states of 16 bits, as rounding to 8 bits in each call adds up: "
        "layers={pattern: 'int8'} (--layer PATTERN=int8) keeps 8 bits"
    )
    return recipe.replace(layers=layers), (said,) if wide else ()


def tensors_of_16_bits(source: FloatFile, recipe: Recipe) -> set[str]:
    """Names of those that operators make with activations of 16 bits."""
    return {
        name
        for op in flatbuffer.operators(source.content, source.layers)
        if PRECISIONS[recipe.precision_of(op.layers)].activation_bits == 16
        for name in op.outputs
    }


def states_as_computed(content: bytes, plan: StreamPlan) -> bytes:
    """The file with states in 16 bits, or in float, where they are computed so and rounded for its border alone."""
    model = flatbuffer.read(content)
    inputs, outputs = ({port.name: port.index for port in side} for side in ports_of(content))
    for state in plan.states:
        _as_computed(model, inputs[state.input], outputs[state.output])
    return flatbuffer.write(model)


def _as_computed(model, before: int, after: int) -> None:
    """Takes the change of type away from a state: `before` gets that of what is made of it, the output is handed out as
    it was before it was rounded to `after`."""
    graph = model.subgraphs[0]
    made = [op for op in graph.operators if after in map(int, op.outputs)]
    read = [op for op in graph.operators if before in map(int, op.inputs)]
    if not read or len(made) != 1:
        return
    if any(flatbuffer.operator_name(model, op) not in flatbuffer.BORDER_OPERATORS for op in (*made, *read)):
        return
    source, copies = int(made[0].inputs[0]), [int(op.outputs[0]) for op in read]
    if source in map(int, graph.outputs) or set(copies) & set(map(int, graph.outputs)):
        return
    if len({_format(graph.tensors[i]) for i in (source, *copies)}) > 1:
        return
    for name in ("type", "quantization"):
        setattr(graph.tensors[before], name, getattr(graph.tensors[source], name))
    gone = {id(op) for op in read}
    if not any(after in map(int, op.inputs) for op in graph.operators):
        gone.add(id(made[0]))
    graph.operators = [op for op in graph.operators if id(op) not in gone]
    for op in graph.operators:
        op.inputs = [before if int(i) in copies else int(i) for i in op.inputs]
    graph.outputs = [source if int(i) == after else int(i) for i in graph.outputs]
    for port in (port for one in model.signatureDefs or [] if one.subgraphIndex == 0 for port in one.outputs):
        port.tensorIndex = source if port.tensorIndex == after else port.tensorIndex


def _format(tensor) -> tuple:
    found = tensor.quantization
    scales = found is not None and found.scale is not None
    return tensor.type, *((tuple(found.scale), tuple(found.zeroPoint)) if scales else ())
