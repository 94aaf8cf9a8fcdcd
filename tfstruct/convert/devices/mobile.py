"""Phones and single-board computers: TensorFlow Lite's own interpreter with XNNPACK."""

import importlib.metadata
from collections.abc import Sequence

from tfstruct.convert import cutout, flatbuffer
from tfstruct.convert.devices.device import Device, Verdict
from tfstruct.convert.flatbuffer import Operator
from tfstruct.convert.runtime import is_delegated
from tfstruct.errors import ConversionError


def judge(content: bytes, found: Sequence[Operator]) -> Verdict:
    """Loads every operator alone in the interpreter; those that XNNPACK leaves to the builtin kernels are named."""
    model = flatbuffer.read(content)
    answers: list[tuple[bool | None, str]] = []
    for op in found:
        alone = cutout.cut(model, op.subgraph, op.index)
        if alone is None:
            answers.append((True, "outside XNNPACK: control flow and resources"))
            continue
        try:
            fast = is_delegated(alone)
        except ConversionError as error:
            answers.append((False, str(error).split(": ", 1)[-1]))
        else:
            answers.append((True, "" if fast else "outside XNNPACK: a builtin kernel"))
    share = sum(fits is True and not why for fits, why in answers)
    facts = (("in XNNPACK", f"{share} of {len(found)} operators"),)
    return Verdict(f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}", answers, facts)


DEVICE = Device(
    "mobile", "phones and single-board computers, XNNPACK", judge, four_bit_weights=True, several_functions=True,
    aliases=("cpu", "xnnpack", "phone", "android", "ios", "raspberry pi"),
    also_called=("android", "ios", "phone", "raspberry", "pixel", "cortex-a", "arm64", "cpu"),
)  # fmt: skip
