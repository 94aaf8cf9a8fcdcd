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
        sqnr_db: what varies from sample to sample to quantization noise; low is bad.
        added_noise: noise power over signal power here, less that of the operator's worst input: what this operator
            adds itself.
        in_float: True if it computes in float in the file, so that what is lost there was lost in what it reads.
    """

    layers: tuple[str, ...]
    tensor: str
    sqnr_db: float
    added_noise: float
    in_float: bool = False


class _NoisePower:
    """Sums over samples of one tensor: the noise, and the signal by what of it varies from sample to sample.

    A constant part carries nothing: beside 1000 that is added and taken away again a step of 4 is not small.
    """

    def __init__(self):
        self.count, self.whole, self.noise = 0, 0.0, 0.0
        self.sums: np.ndarray | float = 0.0

    def add(self, plain: np.ndarray, quantized: np.ndarray) -> None:
        values = plain.astype(np.float64)
        self.count += 1
        self.whole += float(np.square(values).sum())
        self.noise += float(np.square(values - quantized).sum())
        if np.shape(self.sums) in ((), values.shape):
            self.sums = self.sums + values
        else:  # open sizes: there are no places that samples share
            self.sums = np.full(1, np.nan)

    def signal(self) -> float:
        """Power of what varies over the samples; the whole where there is one, or nothing varies."""
        if self.count < 2 or not np.isfinite(self.sums).all():
            return self.whole
        varying = self.whole - float(np.square(self.sums).sum()) / self.count
        # Below it the difference has no digits left.
        return varying * self.count / (self.count - 1) if varying > 1e-12 * self.whole else self.whole


def layer_errors(
    reference: bytes,
    content: bytes,
    inputs: Iterable[Mapping[str, np.ndarray]],
    layers: Mapping[str, tuple[str, ...]],
) -> tuple[LayerError, ...]:
    """SQNR of every tensor that float and quantized file share, the operator that adds most noise first."""
    plain, quantized = Runtime(reference, intermediates=True), Runtime(content, intermediates=True)
    found = [op for op in flatbuffer.operators(reference, layers) if op.subgraph == 0]
    powers: dict[str, _NoisePower] = {}
    for sample in inputs:
        plain.run(sample)
        quantized.run(sample)
        for name in {n for op in found for n in (*op.inputs, *op.outputs)}:
            a, b = plain.tensor(name), quantized.tensor(name)
            if a is None or b is None or a.shape != b.shape or a.dtype != np.float32:
                continue
            powers.setdefault(name, _NoisePower()).add(a, b)
    signal = {name: power.signal() for name, power in powers.items()}
    noise = {name: power.noise for name, power in powers.items()}
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
