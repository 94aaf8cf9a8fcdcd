"""Which weights of a file GPTQ rounds, by the recipe."""

from collections.abc import Mapping

from tfstruct.convert import flatbuffer
from tfstruct.convert.recipe import Recipe
from tfstruct.precisions import PRECISIONS


def rounds(recipe: Recipe) -> bool:
    """True if some weights are to be rounded by GPTQ."""
    return any(_bits_by_gptq(recipe, precision) for precision in (recipe.precision, *recipe.layers.values()))


def _bits_by_gptq(recipe: Recipe, precision: str) -> int | None:
    """Bits of the weights of a precision, if GPTQ rounds them: by itself those of 4 bits."""
    bits = PRECISIONS[precision].weight_bits
    by_gptq = {"nearest": (), "auto": (4,), "gptq": (4, 8)}[recipe.rounding]
    return bits if bits in by_gptq else None


def bits_of_weights(recipe: Recipe, content: bytes, layers: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """Output tensor of an operator -> bits of its weights, for those that GPTQ rounds."""
    return {
        name: bits
        for op in flatbuffer.operators(content, layers)
        if (bits := _bits_by_gptq(recipe, recipe.precision_of(op.layers)))
        for name in op.outputs
    }
