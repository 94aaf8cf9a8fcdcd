"""The scales that a file stores: what its integers stand for."""

from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfstruct.convert import flatbuffer
from tfstruct.errors import ConversionError

# Below it float32 has fewer digits, and many processors take 0 for it.
_LEAST = np.finfo(np.float32).tiny
_SHOWN = 3


def check(content: bytes | schema.ModelT, layers: Mapping[str, tuple[str, ...]]) -> None:
    """Looks at every stored scale, those of subgraphs too.

    Raises:
        ConversionError: some are not finite, or below the least normal float32: what the integers stand for is lost.
            It names the tensors and their layers.
    """
    model = flatbuffer.parsed(content)
    found: dict[str, tuple[str, ...]] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            scale = getattr(tensor.quantization, "scale", None)
            values = np.asarray(() if scale is None else scale, np.float64)
            wrong = values[~(np.isfinite(values) & (values >= _LEAST))]
            if wrong.size:
                name = tensor.name.decode()
                said = f"{name} ({wrong.size} of {values.size}, as {wrong[0]:.3g})"
                found[said] = layers.get(name) or layers.get(name.rpartition("/")[0], ())
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConversionError(
            f"The file's scales of {', '.join(list(found)[:_SHOWN])}{more} are no usable numbers: expected finite ones "
            f"of {_LEAST:.3g} or more. The values there are too small or too large for float32 behind a batch norm or "
            "a range: keep the layer in float32 (Recipe(layers={pattern: 'float32'}), --keep-float), or remove the "
            "channels that do nothing (tfstruct.surgery.shrink).",
            tuple(dict.fromkeys(layer for own in found.values() for layer in own)),
        )
