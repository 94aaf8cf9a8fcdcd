"""How many bits the weights of the file have."""

import dataclasses

import numpy as np

from tfstruct.compression.four_bits import FileSize, four_bit_layers
from tfstruct.compression.steps.quantizing import Quantize
from tfstruct.compression.task import Task
from tfstruct.convert.devices import device
from tfstruct.convert.draft import draft


@dataclasses.dataclass(frozen=True)
class Precision:
    """How the file is quantized.

    Attributes:
        four_bits: the layers that will probably have weights of 4 bits.
        step: which chooses them on what is there then.
    """

    four_bits: tuple[str, ...]
    step: Quantize


def choose_precision(task: Task, size: FileSize, keep: np.ndarray, limit: float, four_bits: bool = True) -> Precision:
    """int8, unless the file of what stays is larger than `limit` bytes and 4-bit weights, if wanted, help."""
    target, latency = task.settings.target, task.limits.figures.get("latency_us")
    wanted = size(keep) - limit

    def int8(why: str) -> Precision:
        return Precision((), Quantize(reason=f"8 bits for weights and activations; {why}"))

    if wanted <= 0:
        return int8("the file need not be smaller than that")
    if not four_bits:
        return int8("weights of 4 bits were tried and missed the budget")
    sizes = size.sizes(keep)
    if not device(target).four_bit_weights or not sizes:
        return int8(f"{target} has no 4-bit weights" if sizes else "no layer has a kernel for 4-bit weights")
    content, _ = draft(task.model, "int4", process=task.process)
    slow = task.measure.latency(content) / task.measure.reference_us
    if latency is not None and slow > 1.1:
        return int8(f"4-bit weights would make the file {slow:.1f} times as slow")
    chosen = four_bit_layers(sizes, wanted)
    saved = size(keep) - size(keep, chosen)
    why = (
        f"the int8 file is {wanted:,.0f} bytes too large; 4-bit weights in about {len(chosen)} of {len(sizes)} layers "
        f"that have kernels for them save {saved:,.0f} and cost no channel"
    )
    return Precision(chosen, Quantize(tflite_bytes=limit, reason=why))
