"""Microcontrollers: TensorFlow Lite Micro, whose runtime is asked on this machine."""

from collections.abc import Sequence

from tfstruct.convert import micro
from tfstruct.convert.devices.device import Device, Verdict
from tfstruct.convert.flatbuffer import Operator
from tfstruct.errors import ConversionError


def judge(content: bytes, found: Sequence[Operator]) -> Verdict:
    """Runs every operator alone, and the file if all of them run; by a table where the runtime is not installed."""
    methods = micro.resolver_methods(content)
    facts: list[tuple[str, str]] = [("resolver", f"{len(methods)} operators: {', '.join(methods)}")]
    if micro.version() is None:
        answers = [
            (op.name in micro.OPERATORS, "" if op.name in micro.OPERATORS else "no kernel is registered")
            for op in found
        ]
        note = "tflite-micro is not installed: operators by name only, no arena. pip install 'tfstruct[micro]'"
        return Verdict("a table of tflite-micro 0.dev20261023182759", answers, tuple(facts), (note,))
    said = micro.probe(content)
    answers = [(problem is None, problem or "") for problem in said]
    notes: list[str] = []
    if all(fits for fits, _ in answers):
        try:
            used = micro.arena_bytes(content)
        except ConversionError as error:
            notes.append(f"no arena figure: {error}")
        else:
            facts.append(("arena", f"{used:,} bytes, measured with 64-bit pointers: less on a 32-bit device"))
    return Verdict(f"tflite-micro {micro.version()}", answers, tuple(facts), tuple(notes))


DEVICE = Device(
    "micro",
    "TensorFlow Lite for Microcontrollers",
    judge,
    also_called=("cortex-m", "stm32", "esp32", "arduino", "nrf5", "rp2040", "pico", "mcu", "microcontroller"),
    operators=dict.fromkeys(micro.OPERATORS, ""),
    four_bit_weights=True,
    has_arena=True,
)
