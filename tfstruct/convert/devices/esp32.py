"""ESP32-S3: TensorFlow Lite Micro with ESP-NN's kernels, which use its vector instructions.

Which operators ESP-NN computes, and on what, is read from https://github.com/espressif/esp-tflite-micro
(`tensorflow/lite/micro/kernels/esp_nn/`), on 30 November 2026: add, conv, depthwise_conv, fully_connected, mul, pooling
and softmax, on int8. All others run on the reference kernels, which the README of https://github.com/espressif/esp-nn
measures at 2 to 11 times the ticks.
"""

import dataclasses
from collections.abc import Sequence

from tfstruct.convert.devices import micro
from tfstruct.convert.devices.boards import Board, BoardDevices
from tfstruct.convert.devices.device import Device, Verdict
from tfstruct.convert.devices.reading import Reading, held_against
from tfstruct.convert.flatbuffer import Operator

_GROUPED = "a grouped convolution, which ESP-NN's kernel does not expect: compare results on the board"
# Operator -> on what ESP-NN computes it, besides int8.
OPTIMIZED = {
    "ADD": "two tensors of one shape",
    "AVERAGE_POOL_2D": "channels in multiples of 4",
    "CONV_2D": "int8 weights, no dilation",
    "DEPTHWISE_CONV_2D": "int8 weights, no dilation",
    "FULLY_CONNECTED": "int8 weights",
    "MAX_POOL_2D": "channels in multiples of 4",
    "MUL": "two tensors of one shape",
    "SOFTMAX": "",
}


def slow(op: Reading) -> tuple[bool | None, str]:
    """(fits, "" where ESP-NN computes it, else why the reference kernel does)."""
    if op.name not in OPTIMIZED:
        return True, "reference kernel: ESP-NN has none"
    if "int8" not in op.dtypes_in or any(dtype != "int8" for dtype in (*op.dtypes_in, *op.dtypes_out)):
        return True, "reference kernel: ESP-NN computes int8 alone"
    if op.name == "CONV_2D" and op.shapes_in[0][-1] != op.shapes_in[1][-1]:
        return None, _GROUPED
    return True, "" if _within(op) else f"reference kernel: ESP-NN wants {OPTIMIZED[op.name]}"


def _within(op: Reading) -> bool:
    if op.name in ("ADD", "MUL"):
        return len(set(op.shapes_in)) == 1
    if op.name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        return op.shapes_in[0][-1] % 4 == 0
    if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return op.dtypes[1] == "int8" and op.option("dilationHFactor", 1) == op.option("dilationWFactor", 1) == 1
    return op.name != "FULLY_CONNECTED" or op.dtypes[1] == "int8"


def judge(content: bytes, found: Sequence[Operator], board: Board | None = None) -> Verdict:
    """What TensorFlow Lite Micro says, and which operators run on ESP-NN."""
    verdict = micro.judge(content, found, board)
    kernels = held_against(content, found, slow)
    answers = [answer if not answer[0] else kernel for answer, kernel in zip(verdict.answers, kernels, strict=True)]
    count = sum(not why for _, why in kernels)
    facts = (*verdict.facts, ("in ESP-NN", f"{count} of {len(found)} operators"))
    return dataclasses.replace(verdict, judge=f"{verdict.judge}; ESP-NN by its source", answers=answers, facts=facts)


_BARE = Device(
    "esp32-s3", "ESP32-S3, TensorFlow Lite Micro with ESP-NN", judge, operators=micro.DEVICE.operators,
    four_bit_weights=True, has_arena=True, aliases=("esp-nn",),
)  # fmt: skip
DEVICE = dataclasses.replace(
    _BARE, variants=BoardDevices(lambda core: core == "esp32-s3", lambda board: micro.on_board(board, _BARE, judge))
)
