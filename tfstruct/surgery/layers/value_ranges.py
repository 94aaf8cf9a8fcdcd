"""Bounds of the values of tensors in inference, whatever the input."""

import math
from collections.abc import Sequence

import keras

from tfstruct.graph import Call, Graph
from tfstruct.graph.operation_traits import function_traits, traits_of
from tfstruct.graph.traits import ANY, Range, Traits


def value_ranges(graph: Graph) -> dict[int, Range]:
    """Tensor key -> bounds of its values; tensors that are missing are not bounded."""
    known: dict[int, Range] = {}
    for call in graph.calls:
        if len(call.outputs) == 1:
            found = _range(call, [known.get(x.key, ANY) for x in call.inputs])
            if found != ANY:
                known[call.outputs[0].key] = found
    return known


def rectifier(op) -> Range | None:
    """The interval that an activation function passes unchanged, such as (0, 6); None where there is none."""
    traits = traits_of(op)
    return traits.passes if traits.elementwise else None


def _range(call: Call, came: Sequence[Range]) -> Range:
    op, traits = call.op, traits_of(call.op)
    function = function_traits(op.activation) if traits.activated else traits
    if function.clips:
        assert function.output_range is not None
        return _clip(came[0] if len(came) == 1 and not traits.activated else ANY, function.output_range)
    if function.output_range is not None:
        return function.output_range
    if not came or (traits.training_only and call.argument("training")):
        return ANY
    came = came if isinstance(op, keras.layers.Layer) else _moved(call, traits, came)
    if not came:
        return ANY
    lows, highs = zip(*came, strict=True)
    if traits.stays_within:
        return min(lows), max(highs)
    if traits.pads:
        return min(0.0, lows[0]), max(0.0, highs[0])
    if len(came) < 2:
        return ANY
    if traits.joins == "add":
        return sum(lows), sum(highs)
    if traits.joins == "multiply" and min(lows) >= 0:
        return math.prod(lows), math.inf if math.inf in highs else math.prod(highs)
    return ANY


def _moved(call: Call, traits: Traits, came: Sequence[Range]) -> Sequence[Range]:
    """The ranges of the values that an operation moves, reduces or joins; none where a constant is among them."""
    given = (*call.node.arguments.args, *call.node.arguments.kwargs.values())
    values = keras.tree.flatten(given if traits.joins and traits.elementwise else given[:1])
    return came[: len(values)] if all(isinstance(x, keras.KerasTensor) for x in values) else ()


def _clip(values: Range, cut: Range) -> Range:
    low, high = (min(max(x, cut[0]), cut[1]) for x in values)
    return low, high
