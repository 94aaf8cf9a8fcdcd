"""Microcontrollers: TensorFlow Lite Micro, whose runtime is asked on this machine; boards with their memory."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tfstruct.convert import micro
from tfstruct.convert.devices.boards import CORES, Board, BoardDevices, memory
from tfstruct.convert.devices.device import Device, Verdict
from tfstruct.convert.flatbuffer import Operator
from tfstruct.errors import ConversionError
from tfstruct.reporting.tables import counted

Answer = TypeVar("Answer")
_TABLE = "a table of tflite-micro 0.dev20261023182759"


def judge(content: bytes, found: Sequence[Operator], board: Board | None = None) -> Verdict:
    """Runs every operator alone, and the file if all of them run; by a table where the runtime is not installed."""
    methods = micro.resolver_methods(content)
    facts: list[tuple[str, str]] = [("resolver", f"{counted(len(methods), 'operator')}: {', '.join(methods)}")]
    notes: list[str] = []
    arena: tuple[int, int] | None = None
    if micro.version() is None:
        judge, unknown = _TABLE, "tflite-micro is not installed"
        said = tuple(None if op.name in micro.OPERATORS else "no kernel is registered" for op in found)
        notes.append(f"{unknown}: operators by name only, no arena. pip install 'tfstruct[micro]'")
    else:
        judge, unknown = f"tflite-micro {micro.version()}", "not every operator runs"
        said = _asked(_probed, content)
    answers: list[tuple[bool | None, str]] = [(problem is None, problem or "") for problem in said]
    if micro.version() is not None and all(fits for fits, _ in answers):
        arena, unknown = _asked(_arena, content)
        if arena is None:
            notes.append(f"no arena figure: {unknown}")
        else:
            facts.append(("arena", f"{arena[0]:,} bytes, measured with 64-bit pointers: less on a 32-bit device"))
    if board is None:
        return Verdict(judge, answers, tuple(facts), tuple(notes))
    facts.append(("kernels", CORES[board.core]))
    taken = memory(board, content, arena, unknown)
    facts += [(one.name, str(one)) for one in taken]
    return Verdict(judge, answers, tuple(facts), tuple(notes), taken)


def _asked(what: Callable[[bytes], Answer], content: bytes) -> Answer:
    """What the runtime says of a file. One is asked about for many boards in a row: the last answer is kept, not the
    file."""
    key = hashlib.sha256(content).digest()
    known = _answers.get(what)
    if known is None or known[0] != key:
        known = _answers[what] = key, what(content)
    return known[1]


_answers: dict[Callable, tuple[bytes, Any]] = {}


def _probed(content: bytes) -> tuple[str | None, ...]:
    return micro.probe(content)


def _arena(content: bytes) -> tuple[tuple[int, int] | None, str]:
    """(arena, its part for activations), or why there is none."""
    try:
        done = micro.measure(content)
    except ConversionError as error:
        return None, str(error)
    return (done.arena_bytes, done.head_bytes), ""


def on_board(board: Board, device: Device, judge: Callable[..., Verdict]) -> Device:
    """A device with the memory of a board, which its judge takes."""
    judged = functools.partial(judge, board=board)
    return dataclasses.replace(device, name=board.name, what=board.what, judge=judged, variants={}, aliases=())


_BARE = Device(
    "micro",
    "TensorFlow Lite for Microcontrollers",
    judge,
    also_called=("cortex-m", "stm32", "esp32", "arduino", "nrf5", "rp2040", "pico", "mcu", "microcontroller"),
    operators=dict.fromkeys(micro.OPERATORS, ""),
    four_bit_weights=True,
    has_arena=True,
    aliases=("tflite-micro", "tflm", "microcontroller", "cortex-m"),
)
DEVICE = dataclasses.replace(
    _BARE,
    variants=BoardDevices(lambda core: core.startswith("cortex"), lambda board: on_board(board, _BARE, judge)),
)
