"""Chooses the bits of the weights in the file."""

import dataclasses

import numpy as np

from tfstruct.compression.four_bits import FileSize, four_bit_layers
from tfstruct.compression.task import Task
from tfstruct.convert.devices import device
from tfstruct.convert.draft import draft

SLOW = 1.1  # times the latency of the plain int8 file: more than that, and weights of 4 bits are not taken


@dataclasses.dataclass(frozen=True)
class WeightBits:
    """The bits of the weights in the file.

    Attributes:
        four_bits: the layers that will probably get 4 bits; the others have 8.
        reason: in words.
        tflite_bytes: limit on the file, by which these layers are chosen once the model is pruned; None: all weights
            have 8 bits.
    """

    four_bits: tuple[str, ...]
    reason: str
    tflite_bytes: float | None = None


def choose_precision(task: Task, size: FileSize, keep: np.ndarray, limit: float, four_bits: bool = True) -> WeightBits:
    """Returns int8, or int4 weights for some layers if the pruned int8 file exceeds `limit` bytes.

    Args:
        keep: the units that stay.
        four_bits: whether 4-bit weights may be used.
    """
    target, latency = task.settings.target, task.limits.figures.get("latency_us")
    wanted = size(keep) - limit

    def int8(why: str) -> WeightBits:
        return WeightBits((), f"8 bits for weights and activations; {why}")

    if wanted <= 0:
        return int8("the file need not be smaller than that")
    if not four_bits:
        return int8("weights of 4 bits were tried and missed the budget")
    sizes = size.sizes(keep)
    if not device(target).four_bit_weights or not sizes:
        return int8(f"{target} has no 4-bit weights" if sizes else "no layer has a kernel for 4-bit weights")
    if latency is not None and (slow := four_bits_slower(task)) > SLOW:
        return int8(f"4-bit weights would make the file {slow:.1f} times as slow")
    chosen = four_bit_layers(sizes, wanted)
    saved = size(keep) - size(keep, chosen)
    why = (
        f"the int8 file is {wanted:,.0f} bytes too large; 4-bit weights in about {len(chosen)} of {len(sizes)} layers "
        f"that have kernels for them save {saved:,.0f} and cost no channel"
    )
    return WeightBits(chosen, why, limit)


def four_bits_slower(task: Task) -> float:
    """The latency of the model with all weights in 4 bits, over that of its plain int8 file."""
    content, _ = draft(task.model, "int4", process=task.process)
    return task.measure.latency(content) / task.measure.reference_us
