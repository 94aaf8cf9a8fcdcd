"""What stays larger or slower in a file than its recipe asks for, as there is no kernel for it."""

from collections.abc import Iterable, Sequence

from tfstruct.convert import flatbuffer
from tfstruct.convert.port_ranges import floats_at_ports
from tfstruct.convert.recipe import Recipe
from tfstruct.errors import ConversionError
from tfstruct.precisions import PRECISIONS, stored_within
from tfstruct.reporting.tables import counted


def refuse_floats(unwanted: Sequence[flatbuffer.Operator], recipe: Recipe, at_ports: str) -> list[str]:
    """A warning about operators that stay in float, where the recipe allows them.

    Args:
        at_ports: see `rounded_beside_floats`.

    Raises:
        ConversionError: there are some, and it does not.
    """
    if not unwanted:
        return []
    by_layer: dict[str, list[str]] = {}
    for op in unwanted:
        by_layer.setdefault(", ".join(op.layers) or "no layer known", []).append(op.name)
    named = "; ".join(f"{layer}: {', '.join(dict.fromkeys(ops))}" for layer, ops in by_layer.items())
    if recipe.allow_float:
        return [f"{counted(len(unwanted), 'operator')} {'stay' if len(unwanted) > 1 else 'stays'} in float: {named}"]
    raise ConversionError(
        f"{counted(len(unwanted), 'operator')} of the {recipe.precision} file would stay in float: {named}. Replace "
        "those layers, keep them in float on purpose (Recipe(layers={pattern: 'float32'}), --keep-float), or accept "
        f"them (allow_float=True, --allow-float).{f' Either way {at_ports} it in float.' if at_ports else ''}",
        tuple(dict.fromkeys(layer for op in unwanted for layer in op.layers)),
    )


def rounded_beside_floats(found: Sequence[flatbuffer.Operator], recipe: Recipe) -> str:
    """What becomes of layers kept in float that stand at an input or output which is rounded; empty where none does."""
    if recipe.float_io or not recipe.has_integers(recipe.precision):
        return ""
    ends = floats_at_ports(found)
    named = ", ".join(dict.fromkeys(", ".join(op.layers) or op.name for op in ends))
    return (
        f"the file's int{recipe.activation_bits} input or output is rounded beside {named}, which computes in float: "
        "float_io=True (--float-io) leaves"
        if ends
        else ""
    )


def wide_weights(found: Iterable[flatbuffer.Operator], recipe: Recipe) -> list[str]:
    """A line on weights that kept more bits than the recipe's precision has, for want of a kernel."""
    bits = PRECISIONS[recipe.precision].weight_bits
    if bits is None or (recipe.precision != "dynamic" and bits != 4):
        return []
    allowed = stored_within(bits)
    wide = [op for op in found if op.weights and op.weights not in allowed]
    wide = [op for op in wide if recipe.precision_of(op.layers) == recipe.precision]
    named = ", ".join(dict.fromkeys(f"{op} in {op.weights}" for op in wide))
    return [f"no kernel for {recipe.precision} weights: {named}"] if wide else []
