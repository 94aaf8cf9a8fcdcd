"""Which layer of a quantized file loses most: its tensors against those of the float file."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.agreement import decibel
from tfstruct.convert.runtime import Runtime


@dataclasses.dataclass(frozen=True)
class LayerError:
    """The error of one tensor of the file against the float file.

    Attributes:
        layers: Keras layers behind the tensor.
        tensor: its name in the file.
        sqnr_db: signal to quantization noise; low is bad.
        added_noise: noise power over signal power here, less that of the operator's worst input: what this operator
            adds itself.
        in_float: True if it computes in float in the file, so that what is lost there was lost in what it reads.
    """

    layers: tuple[str, ...]
    tensor: str
    sqnr_db: float
    added_noise: float
    in_float: bool = False


def layer_errors(
    reference: bytes,
    content: bytes,
    inputs: Iterable[Mapping[str, np.ndarray]],
    layers: Mapping[str, tuple[str, ...]],
) -> tuple[LayerError, ...]:
    """SQNR of every tensor that float and quantized file share, the operator that adds most noise first."""
    plain, quantized = Runtime(reference, intermediates=True), Runtime(content, intermediates=True)
    found = [op for op in flatbuffer.operators(reference, layers) if op.subgraph == 0]
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for sample in inputs:
        plain.run(sample)
        quantized.run(sample)
        for name in {n for op in found for n in (*op.inputs, *op.outputs)}:
            a, b = plain.tensor(name), quantized.tensor(name)
            if a is None or b is None or a.shape != b.shape or a.dtype != np.float32:
                continue
            signal[name] = signal.get(name, 0.0) + float(np.square(a, dtype=np.float64).sum())
            noise[name] = noise.get(name, 0.0) + float(np.square(a - b, dtype=np.float64).sum())
    share = {name: noise[name] / signal[name] if signal[name] else 0.0 for name in signal}
    floats = {name for op in flatbuffer.float_operators(flatbuffer.operators(content)) for name in op.outputs}
    errors = []
    for op in found:
        name = op.outputs[0] if op.outputs else ""
        if name in share:
            before = max((share[n] for n in op.inputs if n in share), default=0.0)
            added = share[name] - before
            errors.append(LayerError(op.layers, name, decibel(signal[name], noise[name]), added, name in floats))
    return tuple(sorted(errors, key=lambda e: -e.added_noise))
